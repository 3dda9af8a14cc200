"""What the optimizer refuses, in the words of MindSpore: the class, the argument, what was expected, and what came."""

from collections.abc import Iterable

import numpy as np
from mindspore import dtype as mstype
from mindspore import ops

FLOATS = (mstype.float32, mstype.float16, mstype.bfloat16)


def reusable(params):
    """`params` with lists in its groups: `nn.Optimizer` reads a group twice, which leaves nothing of a generator."""
    if not isinstance(params, Iterable):
        return params
    return [_reusable_group(item) if isinstance(item, dict) else item for item in params]


def _reusable_group(group):
    return {
        key: list(value) if key in ("params", "order_params") and isinstance(value, Iterable) else value
        for key, value in group.items()
    }


def parameters(cls_name, checked):
    """Every parameter has to be of a dtype of `FLOATS` and have elements, and to be there once."""
    seen = set()
    for parameter in checked:
        if parameter.dtype not in FLOATS:
            raise TypeError(
                f"For '{cls_name}', the parameter '{parameter.name}' must be of dtype float32, float16 or bfloat16, "
                f"but got {parameter.dtype}; cast it to one of them."
            )
        if parameter.size == 0:
            raise ValueError(
                f"For '{cls_name}', the parameter '{parameter.name}' must have elements, but got the shape "
                f"{tuple(parameter.shape)}; leave it out."
            )
        if id(parameter) in seen:
            raise ValueError(
                f"For '{cls_name}', each parameter must occur once, but got '{parameter.name}' twice; "
                f"it would be updated twice in a step."
            )
        seen.add(id(parameter))


def is_float_between(cls_name, name, value, low, high):
    if not isinstance(value, float):
        raise TypeError(
            f"For '{cls_name}', the argument '{name}' must be a float, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    if not low < value < high:
        raise ValueError(
            f"For '{cls_name}', the argument '{name}' must be in the range ({low}, {high}), but got {value}."
        )


def is_bool(cls_name, name, value):
    if not isinstance(value, bool):
        raise TypeError(
            f"For '{cls_name}', the argument '{name}' must be a bool, but got {value!r} of type {type(value).__name__}."
        )


def dynamic_loss_scale(cls_name, parameter):
    if parameter.dtype != mstype.float32 or parameter.size != 1:
        raise TypeError(
            f"For '{cls_name}', the argument 'loss_scale' must be a float, or a Parameter of dtype float32 with one "
            f"element, but got a Parameter of {parameter.dtype} with the shape {tuple(parameter.shape)}."
        )


def max_grad_norm(cls_name, value):
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"For '{cls_name}', the argument 'max_grad_norm' must be None or a float, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    with np.errstate(over="ignore"):
        bound = np.float32(value)
    if not 0 < bound < np.inf:
        raise ValueError(
            f"For '{cls_name}', the argument 'max_grad_norm' must be None, or greater than 0 and finite in float32, "
            f"but got {value}."
        )


def min_offload_size(cls_name, value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"For '{cls_name}', the argument 'min_offload_size' must be an int, a number of elements, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    if value < 0:
        raise ValueError(f"For '{cls_name}', the argument 'min_offload_size' must be at least 0, but got {value}.")


# These run while the graph is compiled: what they refuse is refused before anything is written.


@ops.constexpr
def gradients(cls_name, is_tuple, count, expected_count):
    if not is_tuple:
        raise RuntimeError(f"For '{cls_name}', the argument 'gradients' must be a tuple, but got another type.")
    if count != expected_count:
        raise RuntimeError(
            f"For '{cls_name}', the argument 'gradients' must hold one gradient for each of the {expected_count} "
            f"parameters, in their order, but got {count}."
        )


@ops.constexpr
def gradient(cls_name, name, expected_shape, shape, dtype):
    if shape != expected_shape:
        raise ValueError(
            f"For '{cls_name}', the gradient of '{name}' must have the shape of its parameter, {expected_shape}, "
            f"but got {shape}."
        )
    if dtype not in FLOATS:
        raise TypeError(
            f"For '{cls_name}', the gradient of '{name}' must be of dtype float32, float16 or bfloat16, "
            f"but got {dtype}."
        )


@ops.constexpr
def unchanged(cls_name, names, what, values, found):
    for name, value, now in zip(names, values, found):
        if now != value:
            raise TypeError(
                f"For '{cls_name}', the parameter '{name}' must keep its {what} {value}, but got {now}; "
                f"make the optimizer after the parameters are as they are to be."
            )


@ops.constexpr
def all_dense(cls_name, names, dense):
    for name, is_dense in zip(names, dense):
        if not is_dense:
            raise RuntimeError(
                f"For '{cls_name}', the gradient of '{name}' must be dense, but got a row-sparse one; "
                f"set sparse=False in the embedding that it belongs to."
            )
