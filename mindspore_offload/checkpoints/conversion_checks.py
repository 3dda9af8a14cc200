# SPDX-License-Identifier: Apache-2.0

"""Refuses what `convert_checkpoint` cannot convert without a loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from mindspore import Tensor
from mindspore import dtype as mstype

from mindspore_offload import errors

_MOST_STEPS = int(np.iinfo(np.int32).max)  # global_step is int32
_MOMENT_DTYPES = (mstype.float16, mstype.bfloat16, mstype.float32, mstype.float64)
ALONE = "load the weights alone"
DAMAGED = f"the checkpoint is damaged or of another optimizer, {ALONE}"
OF_OTHER = f"it is of another optimizer, {ALONE}"


class Found(NamedTuple):
    """The states in a checkpoint.

    Attributes:
        moments: "moment1" and "moment2", each with the float32 moments by the name of the parameter.
        steps: The number of steps.
        betas: The decay rates of the moments.
        others: All other items, which stay as they are.
    """

    moments: dict[str, dict[str, Tensor]]
    steps: int
    betas: tuple[float, float]
    others: dict[str, Any]


def refuse(
    must: str, got: Any, cure: str = DAMAGED, error: type[Exception] = ValueError, argument: str = "checkpoint"
) -> NoReturn:
    """Raises an error. All errors of `convert_checkpoint` come from here."""
    errors.refuse(error, "convert_checkpoint", f"argument '{argument}'", must, got, cure)


def typed(value: Any) -> str:
    """Returns the beginning of a value, with its type."""
    return f"{value!r:.60} of type {type(value).__name__}"


def number(value: Any) -> Any:
    """Returns the number in an object of Python, NumPy, MindSpore or PyTorch exactly; None if it is not one number."""
    try:
        if isinstance(value, Tensor):
            value = value.asnumpy()
        value = value.item() if hasattr(value, "item") else value
    except (ValueError, TypeError, RuntimeError):  # no element or several
        return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def is_decay_rate(value: Any) -> bool:
    """Returns True for a number between 0 and 1 that float32 does not round to one of them."""
    return value is not None and 0 < value < 1 and bool(0 < np.float32(value) < 1)


def decay_rate(argument: str, value: Any) -> float:
    """Returns a beta as a float."""
    rate, cure = number(value), "give the one with which the checkpoint was trained"
    if rate is None:
        refuse("be a float", typed(value), cure, TypeError, argument)
    if not is_decay_rate(rate):
        refuse("be between 0 and 1 in float32", repr(rate), cure, argument=argument)
    return float(rate)


def check_names(names: Any, argument: str) -> None:
    """Refuses names that are no list of str, and a name that is empty or occurs twice."""
    cure = "give the names as [p.name for p in optimizer.parameters]"
    is_list = isinstance(names, (list, tuple))
    odd = [name for name in names if not isinstance(name, str)] if is_list else [names]
    if odd:
        refuse("have the names of the parameters as a list of str", typed(odd[0]), cure, TypeError, argument)
    seen = {""}
    for index, name in enumerate(names):
        if name in seen:
            got = f"{name!r} again at index {index}"
            refuse("have another name for each parameter", got, cure, argument=argument)
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
    if not is_whole or not 0 <= int(count) - first <= _MOST_STEPS:
        shown = saved.asnumpy().tolist() if isinstance(saved, Tensor) else saved
        refuse(f"hold one whole number from {first} to {_MOST_STEPS + first} in '{name}'", f"{shown!r:.60}")
    return int(count) - first


def check_tensor(name: str, value: Any, dtypes: Sequence[Any] = _MOMENT_DTYPES) -> None:
    """Refuses what is no Tensor of one of the dtypes."""
    must = f"hold a Parameter of {' or '.join(str(dtype).lower() for dtype in dtypes)} in '{name}'"
    if not isinstance(value, Tensor):
        refuse(must, typed(value), error=TypeError)
    if value.dtype not in dtypes:
        refuse(must, f"one of {str(value.dtype).lower()}", error=TypeError)


def check_power(name: str, value: Any) -> None:
    """Refuses a power of a beta that is not one number from 0 to 1."""
    held = number(value)
    if held is None or not 0 <= held <= 1:
        refuse(f"hold one number from 0 to 1 in '{name}'", typed(value))


def check_moments(found: Found) -> None:
    """Refuses moments that do not come in pairs, and moments of no step if no powers of the betas count the steps."""
    one, two = found.moments.values()
    for name in sorted(one.keys() | two.keys()):
        shapes = [kind[name].shape if name in kind else None for kind in (one, two)]
        if shapes[0] != shapes[1]:
            got = f"the shapes {shapes[0]} and {shapes[1]} for '{name}'"
            refuse("hold two moments of one shape for each parameter", got)
    counts = found.steps or {"beta1_power", "beta2_power"} <= found.others.keys()
    if not counts and any(value.asnumpy().any() for value in one.values()):
        refuse("count the steps of its moments, which are not zero", "0 steps")
