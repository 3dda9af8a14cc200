# SPDX-License-Identifier: Apache-2.0

"""Refuses bad input in MindSpore's words: the class, the argument, what was expected, what came, and what to do."""

import functools
import math
from collections.abc import Iterable
from typing import Callable, NamedTuple, TypeVar, Union, cast

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, bfloat16, context, float32

from mindspore_offload.errors import refuse, typed
from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS

FLOATS = [getattr(mindspore, name) for name in ELEMENT_TYPES]
CHOICES = {
    "host_kernel": ["auto", "native", "stock"],
    "writeback": ["auto", "in_place", "assign"],
    "moment_dtype": [getattr(mindspore, name) for name in MOMENT_FORMATS],
}


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
        for name, instead in FOREIGN_KEYWORDS.items():
            if name in kwargs:
                raise TypeError(f"For '{type(self).__name__}', there is no argument '{name}'; write {instead}.")
        init(self, *args, **kwargs)

    return cast(_Constructor, checked_init)


def plain(value):
    """Returns `value` with lists in the place of other iterables, and Python's numbers in that of NumPy's.

    `nn.Optimizer` and the checks read some iterables twice, which would find a generator empty. `nn.Optimizer` refuses
    most of NumPy's numbers.
    """
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return value.item()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (Tensor, str, bytes)):
        return [plain(item) for item in value]
    return value


_TINIEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_BELOW_1 = math.nextafter(1 - 2**-25, 0)  # the largest number that float32 does not round to 1


class _Rule(NamedTuple):
    """The values that an argument may have.

    Attributes:
        types (Union[type, tuple[type]]): Their types. A bool is an int in Python, but not here.
        low, high (float): The range.
        must (str): Both in words, after "must".
        cure (str): What to do, where that says more than `must`.
    """

    types: Union[type, tuple[type, ...]]
    low: float
    high: float
    must: str
    cure: str = ""


_NUMBER = (int, float)
_FLAG = _Rule(bool, False, True, "be a bool")
_DECAY_RATE = _Rule(float, _TINIEST, _BELOW_1, "be a float, greater than 0 and less than 1 in float32")
_RULES = {
    "beta1": _DECAY_RATE,
    "beta2": _DECAY_RATE,
    "eps": _Rule(float, _TINIEST, _LARGEST, "be a float, greater than 0 and finite in float32"),
    "use_locking": _FLAG._replace(cure="it is the sixth argument, pass the decay as weight_decay="),
    "use_nesterov": _FLAG,
    "max_grad_norm": _Rule(
        (*_NUMBER, type(None)), _TINIEST, _LARGEST, "be None, or a number greater than 0 and finite in float32"
    ),
    "skip_nonfinite": _FLAG,
    "min_offload_size": _Rule(int, 0, math.inf, "be an int, a number of elements of at least 0"),
    "offload_ratio": _Rule(_NUMBER, 0, 1, "be a float from 0.0 to 1.0", "0.4 keeps 60 % of the states on the device"),
    "shard_states": _FLAG,
}


def check_arguments(cls_name, given):
    """Refuses wrong arguments, except learning rates and decays of types that `nn.Optimizer` refuses.

    Args:
        cls_name (str): The optimizer's class.
        given (dict[str, object]): The arguments by name, those of `nn.Optimizer` as `plain` returns them.
    """
    scale, params = given["loss_scale"], given["params"]
    is_dynamic = isinstance(scale, Parameter)
    if isinstance(scale, Tensor) and not (is_dynamic and scale.dtype == float32 and scale.size == 1):
        must = "be a float, or a Parameter of dtype float32 with one element"
        got = f"a {'Parameter' if is_dynamic else 'Tensor'} of {scale.dtype} with the shape {scale.shape}"
        cure = "pass a Parameter if the scale changes, else a float"
        refuse(TypeError, cls_name, "argument 'loss_scale'", must, got, cure)
    for settings in (given, *(params if isinstance(params, list) else [])):
        if isinstance(settings, dict):  # the arguments, or a group
            _check_numbers(cls_name, settings)
    for name, rule in _RULES.items():
        value, what = given[name], f"argument '{name}'"
        if not isinstance(value, rule.types) or isinstance(value, bool) != (rule.types is bool):
            refuse(TypeError, cls_name, what, rule.must, typed(value), rule.cure)
        if value is not None and not rule.low <= value <= rule.high:
            refuse(ValueError, cls_name, what, rule.must, value, rule.cure)
    for name, choices in CHOICES.items():
        if given[name] not in choices:
            refuse(ValueError, cls_name, f"argument '{name}'", f"be one of {choices}", repr(given[name]))


def _check_numbers(cls_name, settings):
    """Refuses text, which MindSpore takes for a list of its digits, complex numbers, and what float32 does not hold.

    It looks into lists and Tensors, but not into Parameters, which are read in each step. MindSpore may flush subnormal
    numbers of float32 to 0.
    """
    for name in ("learning_rate", "lr", "weight_decay", "loss_scale"):
        value, what = settings.get(name), f"argument '{name}'"
        if isinstance(value, Parameter):
            continue
        for number in np.ravel(value).tolist():
            if isinstance(number, (str, bytes, complex)):
                cure = "" if isinstance(number, complex) else "convert text with float()"
                refuse(TypeError, cls_name, what, "consist of real numbers", typed(number), cure)
            if isinstance(number, (int, float, np.number)) and number != 0 and not _TINIEST <= number <= _LARGEST:
                must = f"be 0 or a positive number of float32, from {_TINIEST:.2g} to {_LARGEST:.2g}"
                refuse(ValueError, cls_name, what, must, number)


def check_parameters(cls_name, checked):
    """Refuses a parameter of another dtype, one without elements, and one that occurs twice."""
    is_gpu, seen = context.get_context("device_target") == "GPU", set()
    for parameter in checked:
        what = f"parameter '{parameter.name}'"
        if parameter.dtype not in FLOATS:
            must = "be of dtype float32, float16 or bfloat16"
            refuse(TypeError, cls_name, what, must, parameter.dtype, "cast it to one of them")
        if is_gpu and parameter.dtype == bfloat16:
            got = "bfloat16, for which MindSpore has neither Assign nor Cast there"
            refuse(TypeError, cls_name, what, "be of dtype float32 or float16 on a GPU", got, "use float16")
        if parameter.size == 0:
            refuse(ValueError, cls_name, what, "have elements", f"the shape {tuple(parameter.shape)}", "leave it out")
        if id(parameter) in seen:
            refuse(ValueError, cls_name, what, "occur once", "it twice", "it would be updated twice in a step")
        seen.add(id(parameter))


def check_device(cls_name, is_stock):
    """Refuses settings in which MindSpore can't run the step, or would run it wrong."""
    target = context.get_context("device_target")
    if target == "Ascend" and context.get_context("jit_level") == "O2":
        got = "'O2', where MindSpore compiles no graph with operations on the host"
        cure = "call mindspore.set_context(jit_config={'jit_level': 'O1'})"
        refuse(RuntimeError, cls_name, "jit_level", "be 'O0' or 'O1'", got, cure)
    if target != "CPU" and is_stock:
        got = f"'{target}', where MindSpore does not keep the order of its operations"
        cure = "use host_kernel='native', 'doctor' shows its state"
        refuse(RuntimeError, cls_name, "device target", "be 'CPU' for the stock host operation", got, cure)
