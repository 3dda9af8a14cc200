# SPDX-License-Identifier: Apache-2.0

"""Refuses bad input in MindSpore's words: the class, the argument, what was expected, what came, and what to do."""

import functools
from collections.abc import Iterable
from typing import Callable, TypeVar, cast

import numpy as np
from mindspore import Parameter, Tensor, context
from mindspore import dtype as mstype

from mindspore_offload.errors import refuse, typed
from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS, one_of

FLOATS = tuple(getattr(mstype, name) for name in ELEMENT_TYPES)


# Keywords of other optimizers, and what to write here.
FOREIGN_KEYWORDS = {
    "lr": "learning_rate",
    "betas": "beta1 and beta2",
    "use_offload": "nothing: this optimizer always offloads",
    "use_lazy": "nothing: gradients have to be dense",
    "use_amsgrad": "nothing: AMSGrad is not supported",
    "amsgrad": "nothing: AMSGrad is not supported",
}


_Constructor = TypeVar("_Constructor", bound=Callable[..., None])


def explains_keywords(init: _Constructor) -> _Constructor:
    """Decorates a constructor: keywords of other optimizers are refused with what to write instead."""

    @functools.wraps(init)
    def checked_init(self, *args, **kwargs):
        for name in FOREIGN_KEYWORDS.keys() & kwargs.keys():
            raise TypeError(
                f"For '{type(self).__name__}', there is no argument '{name}'; write {FOREIGN_KEYWORDS[name]}."
            )
        init(self, *args, **kwargs)

    return cast(_Constructor, checked_init)


def plain_number(value):
    """Returns Python's number for one of NumPy's, most of which `nn.Optimizer` refuses; other values as they are."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value


def with_lists(value):
    """Returns `value` with lists in the place of other iterables, and with plain numbers, in its groups too.

    `nn.Optimizer` and the checks read some iterables twice, which would find a generator empty.
    """
    value = plain_number(value)
    if isinstance(value, dict):
        return {key: with_lists(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (Tensor, str, bytes)):
        return [with_lists(item) if isinstance(item, dict) else item for item in value]
    return value


def check_numbers(cls_name, params, learning_rate, weight_decay, loss_scale):
    """Refuses text, complex numbers, and numbers that are negative or that float32 does not hold.

    It looks into lists, Tensors and groups. A loss scale that is a Tensor must be a Parameter. Other types are left to
    `nn.Optimizer`, which refuses them.
    """
    _check_type_of_loss_scale(cls_name, loss_scale)
    groups = [item for item in params if isinstance(item, dict)] if isinstance(params, list) else []
    named = [("learning_rate", learning_rate), ("weight_decay", weight_decay), ("loss_scale", loss_scale)]
    named += [(key, group[key]) for group in groups for key in ("lr", "weight_decay") if key in group]
    for name, value in named:
        if isinstance(value, Parameter):  # read in each step
            continue
        for number in np.ravel(value.asnumpy()) if isinstance(value, Tensor) else np.ravel(value):
            _check_is_real(cls_name, name, number)
            if isinstance(number, (int, float, np.number)) and not fits_float32(number):
                must = f"be 0 or a positive number of float32, from {_TINIEST:.2g} to {_LARGEST:.2g}"
                refuse(ValueError, cls_name, f"argument '{name}'", must, number)


def _check_is_real(cls_name, name, number):
    """Refuses text, which MindSpore takes for a list of its digits, and complex numbers."""
    value = number.item() if isinstance(number, np.generic) else number
    if isinstance(value, (str, bytes, complex)):
        cure = "" if isinstance(value, complex) else "convert text with float()"
        refuse(TypeError, cls_name, f"argument '{name}'", "consist of real numbers", typed(value), cure)


_TINIEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def fits_float32(number):
    """Returns True for 0 and for the positive numbers of float32. MindSpore may flush subnormal ones to 0."""
    return number == 0 or _TINIEST <= number <= _LARGEST


def check_parameters(cls_name, checked):
    """Refuses a parameter of another dtype, one without elements, and one that occurs twice."""
    seen = set()
    for parameter in checked:
        what = f"parameter '{parameter.name}'"
        if parameter.dtype not in FLOATS:
            must = "be of dtype float32, float16 or bfloat16"
            refuse(TypeError, cls_name, what, must, parameter.dtype, "cast it to one of them")
        if parameter.size == 0:
            refuse(ValueError, cls_name, what, "have elements", f"the shape {tuple(parameter.shape)}", "leave it out")
        if id(parameter) in seen:
            refuse(ValueError, cls_name, what, "occur once", "it twice", "it would be updated twice in a step")
        seen.add(id(parameter))


def check_betas_and_eps(cls_name, *, beta1, beta2, eps):
    """Refuses what is not a float, and what float32 does not hold between 0 and 1, or, for eps, above 0."""
    for name, value, high in (("beta1", beta1, 1.0), ("beta2", beta2, 1.0), ("eps", eps, float("inf"))):
        what = f"argument '{name}'"
        if not isinstance(value, float):
            refuse(TypeError, cls_name, what, "be a float", typed(value))
        if not (_TINIEST <= value <= _LARGEST and np.float32(value) < high):
            cure = f"in float32 it must be at least {_TINIEST:.2g} and below {high}" if 0 < value < high else ""
            refuse(ValueError, cls_name, what, f"be in the range (0.0, {high})", value, cure)


def check_bools(cls_name, **values):
    for name, value in values.items():
        if not isinstance(value, bool):
            is_decay = name == "use_locking" and isinstance(value, (int, float))
            cure = "the sixth argument is 'use_locking', pass the decay as weight_decay=" if is_decay else ""
            refuse(TypeError, cls_name, f"argument '{name}'", "be a bool", typed(value), cure)


def _check_type_of_loss_scale(cls_name, value):
    """Refuses what is neither a number nor a Parameter with one float32 element. `nn.Optimizer` checks the number."""
    is_dynamic = isinstance(value, Parameter)
    if isinstance(value, Tensor) and not (is_dynamic and value.dtype == mstype.float32 and value.size == 1):
        kind = "Parameter" if is_dynamic else "Tensor"
        must = "be a float, or a Parameter of dtype float32 with one element"
        got = f"a {kind} of {value.dtype} with the shape {tuple(value.shape)}"
        refuse(
            TypeError,
            cls_name,
            "argument 'loss_scale'",
            must,
            got,
            "pass a Parameter if the scale changes, else a float",
        )


def check_keywords(cls_name, max_grad_norm, min_offload_size, offload_ratio, moment_dtype, shard_states):
    """Refuses wrong values of the arguments that `nn.AdamOffload` does not have."""
    if max_grad_norm is not None:
        what = "argument 'max_grad_norm'"
        if not _is_number(max_grad_norm, (int, float)):
            refuse(TypeError, cls_name, what, "be None or a float", typed(max_grad_norm))
        if not _TINIEST <= max_grad_norm <= _LARGEST:
            refuse(ValueError, cls_name, what, "be None, or greater than 0 and finite in float32", max_grad_norm)
    what = "argument 'min_offload_size'"
    if not _is_number(min_offload_size, int):
        refuse(TypeError, cls_name, what, "be an int, a number of elements", typed(min_offload_size))
    if min_offload_size < 0:
        refuse(ValueError, cls_name, what, "be at least 0", min_offload_size)
    what = "argument 'offload_ratio'"
    if not _is_number(offload_ratio, (int, float)):
        refuse(TypeError, cls_name, what, "be a float, the share of the states on the host", typed(offload_ratio))
    if not 0 <= offload_ratio <= 1:
        refuse(ValueError, cls_name, what, "be from 0.0 to 1.0", offload_ratio, "0.4 keeps 60 % of them on the device")
    if moment_dtype not in tuple(getattr(mstype, name) for name in MOMENT_FORMATS):
        names = one_of(f"mindspore.{name}" for name in MOMENT_FORMATS)
        refuse(ValueError, cls_name, "argument 'moment_dtype'", f"be {names}", repr(moment_dtype))
    check_bools(cls_name, shard_states=shard_states)


def _is_number(value, types):
    """Returns True for a number of these types. A bool is an int in Python."""
    return isinstance(value, types) and not isinstance(value, bool)


def check_device(cls_name, checked, is_stock):
    """Refuses settings in which MindSpore can't run the step, or would run it wrong."""
    target, dtypes = context.get_context("device_target"), {parameter.dtype for parameter in checked}
    if target == "Ascend" and context.get_context("jit_level") == "O2":
        raise RuntimeError(
            f"For '{cls_name}', the jit_level must be 'O0' or 'O1', but it is 'O2', where MindSpore compiles no graph "
            f"with operations on the host; call mindspore.set_context(jit_config={{'jit_level': 'O1'}})."
        )
    if target == "GPU" and mstype.bfloat16 in dtypes:
        got = "bfloat16, for which MindSpore has neither Assign nor Cast there"
        refuse(TypeError, cls_name, "parameters on a GPU", "be of dtype float32 or float16", got, "use float16")
    if target != "CPU" and is_stock:
        raise RuntimeError(
            f"For '{cls_name}', the stock host operation needs the device target 'CPU', but it is '{target}', where "
            f"MindSpore does not keep the order of its operations; use host_kernel='native', 'doctor' shows its state."
        )
