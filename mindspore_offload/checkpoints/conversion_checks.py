# SPDX-License-Identifier: Apache-2.0

"""Refuses what `convert_checkpoint` cannot convert without a loss."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from mindspore import Tensor, bfloat16, float16, float32, float64

from mindspore_offload import errors

_MOST_STEPS = int(np.iinfo(np.int32).max)  # global_step is int32
_MOMENT_DTYPES = (float16, bfloat16, float32, float64)
ALONE = "load the weights alone"
DAMAGED = f"the checkpoint is damaged or of another optimizer, {ALONE}"


def refuse(
    must: str, got: Any, cure: str = DAMAGED, error: type[Exception] = ValueError, argument: str = "checkpoint"
) -> NoReturn:
    """Raises an error. All errors of `convert_checkpoint` come from here."""
    errors.refuse(error, "convert_checkpoint", f"argument '{argument}'", must, got, cure)


def check_type(value: Any, kind: Any, must: str, cure: str = DAMAGED, argument: str = "checkpoint") -> None:
    """Refuses a value of another type."""
    if not isinstance(value, kind):
        refuse(must, errors.typed(value), cure, TypeError, argument)


def number(value: Any) -> float:
    """Returns the number in an object of Python, NumPy, MindSpore or PyTorch; NaN if it is not one number."""
    try:
        value = value.asnumpy() if isinstance(value, Tensor) else value
        value = value.item() if hasattr(value, "item") else value
        return float(value) if type(value) in (int, float) else math.nan
    except (ValueError, TypeError, RuntimeError, OverflowError):  # no element or several, or a huge int
        return math.nan


def decay_rate(value: Any, must: str, cure: str, argument: str = "checkpoint") -> float:
    """Returns a beta. Refuses one that is not between 0 and 1, or that float32 rounds to one of them."""
    rate = number(value)
    if not (0 < rate < 1 and 0 < np.float32(rate) < 1):
        is_number = isinstance(value, float) or not math.isnan(rate)
        refuse(must, errors.typed(value), cure, ValueError if is_number else TypeError, argument)
    return rate


def step_count(name: str, saved: Any, first: int = 0, dtype: Any = None) -> int:
    """Returns the number of steps.

    Args:
        name: The name of the count in the checkpoint.
        saved: Its value, in any form.
        first: Its value before the first step.
        dtype: The dtype that it must have, or None.
    """
    if dtype is not None:
        check_tensor(name, saved, [dtype])
    steps = number(saved) - first
    if not (steps.is_integer() and 0 <= steps <= _MOST_STEPS):
        shown = saved.asnumpy().tolist() if isinstance(saved, Tensor) else saved
        refuse(f"hold one whole number from {first} to {_MOST_STEPS + first} in '{name}'", f"{shown!r:.60}")
    return int(steps)


def check_tensor(name: str, value: Any, dtypes: Sequence[Any]) -> None:
    """Refuses what is no Tensor of one of the dtypes."""
    must = f"hold a Parameter of {' or '.join(str(dtype).lower() for dtype in dtypes)} in '{name}'"
    check_type(value, Tensor, must)
    if value.dtype not in dtypes:
        refuse(must, f"one of {str(value.dtype).lower()}", error=TypeError)


def moment(name: str, value: Any) -> Tensor:
    """Returns a moment of MindSpore in float32."""
    check_tensor(name, value, _MOMENT_DTYPES)
    return value.astype(float32)
