# SPDX-License-Identifier: Apache-2.0

"""Refuses what `convert_checkpoint` cannot convert without a loss."""

from collections.abc import Sequence
from typing import Any, NoReturn, Optional, Union

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype

_MOST_STEPS = int(np.iinfo(np.int32).max)  # global_step is int32
_MOMENT_DTYPES = (mstype.float16, mstype.bfloat16, mstype.float32, mstype.float64)
DAMAGED = "the checkpoint is damaged or of another optimizer, load the weights alone"


def refuse(argument: str, expected: str, got: str, advice: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises an error. All errors of `convert_checkpoint` come from here."""
    raise error(f"For 'convert_checkpoint', the argument '{argument}' must {expected}, but got {got}; {advice}.")


def described(value: Any) -> str:
    return f"{value!r:.60} of type {type(value).__name__}"


def number(value: Any) -> Optional[Union[int, float]]:
    """Returns the number in an object of Python, NumPy, MindSpore or PyTorch exactly; None if it is not one number."""
    try:
        if isinstance(value, Tensor):
            value = value.asnumpy()
        value = value.item() if hasattr(value, "item") else value
    except (ValueError, TypeError, RuntimeError):  # no element or several
        return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_decay_rate(value: float) -> bool:
    """Returns True for a number between 0 and 1 that float32 does not round to one of them."""
    return 0 < value < 1 and bool(0 < np.float32(value) < 1)


def decay_rate(argument: str, value: Any) -> float:
    """Returns a beta as a float."""
    advice = "give the one with which the checkpoint was trained"
    rate = number(value)
    if rate is None:
        refuse(argument, "be a float", described(value), advice, TypeError)
    if not is_decay_rate(rate):
        refuse(argument, "be between 0 and 1 in float32", repr(rate), advice)
    return float(rate)


def names_of_parameters(argument: str, names: Any) -> None:
    """Refuses names that are no list of str, and a name that is empty or occurs twice."""
    advice = "give the names as [p.name for p in optimizer.parameters]"
    if not isinstance(names, (list, tuple)):
        refuse(argument, "have the names of the parameters as a list of str", described(names), advice, TypeError)
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not isinstance(name, str):
            got = f"{described(name)} at index {index}"
            refuse(argument, "have the names of the parameters as a list of str", got, advice, TypeError)
        if not name or name in seen:
            refuse(argument, "have another name for each parameter", f"{name!r} again at index {index}", advice)
        seen.add(name)


def step_count(name: str, saved: Any, first: int = 0) -> int:
    """Returns the number of steps.

    Args:
        name: The name of the count in the checkpoint.
        saved: Its value, in any form.
        first: Its value before the first step.
    """
    count = number(saved)
    is_whole = isinstance(count, int) or (count is not None and count.is_integer())
    if count is not None and is_whole and 0 <= int(count) - first <= _MOST_STEPS:
        return int(count) - first
    shown = saved.asnumpy().tolist() if isinstance(saved, Tensor) else saved
    expected = f"hold one whole number from {first} to {_MOST_STEPS + first} in '{name}'"
    refuse("checkpoint", expected, f"{shown!r:.60}", DAMAGED)


def tensor(name: str, value: Any, dtypes: Sequence[Any] = _MOMENT_DTYPES) -> Tensor:
    """Returns `value`, a Tensor of one of the dtypes."""
    expected = f"hold a Parameter of {' or '.join(str(dtype).lower() for dtype in dtypes)} in '{name}'"
    if not isinstance(value, Tensor):
        refuse("checkpoint", expected, described(value), DAMAGED, TypeError)
    if value.dtype not in dtypes:
        refuse("checkpoint", expected, f"one of {str(value.dtype).lower()}", DAMAGED, TypeError)
    return value


def power(name: str, value: Any) -> None:
    """Refuses a power of a beta that is not one number from 0 to 1."""
    held = number(value)
    if held is None or not 0 <= held <= 1:
        refuse("checkpoint", f"hold one number from 0 to 1 in '{name}'", described(value), DAMAGED)


def moments(moments1: dict[str, Tensor], moments2: dict[str, Tensor], steps: Optional[int]) -> None:
    """Refuses moments, by parameter, that do not come in pairs, and moments of no step.

    Args:
        steps: The number of steps. None if the powers of the betas count them.
    """
    for parameter in sorted(moments1.keys() | moments2.keys()):
        one, two = (kind[parameter].shape if parameter in kind else None for kind in (moments1, moments2))
        if one != two:
            got = f"the shapes {one} and {two} for '{parameter}'"
            refuse("checkpoint", "hold two moments of one shape for each parameter", got, DAMAGED)
    if steps == 0 and any(value.asnumpy().any() for value in moments1.values()):
        refuse("checkpoint", "count the steps of its moments, which are not zero", "0 steps", DAMAGED)
