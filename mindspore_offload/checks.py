# SPDX-License-Identifier: Apache-2.0

"""Refuses bad input in MindSpore's words: the class, the argument, what was expected, what came, and what to do."""

import functools
from collections.abc import Iterable
from typing import Callable, TypeVar, cast

import numpy as np
from mindspore import Parameter, Tensor, context, ops
from mindspore import dtype as mstype

from mindspore_offload.distributed import parallel_mode
from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS, one_of
from mindspore_offload.net_parameters import check_replaced

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
                raise ValueError(
                    f"For '{cls_name}', the argument '{name}' must be 0 or a positive number of float32, "
                    f"from {_TINIEST:.2g} to {_LARGEST:.2g}, but got {number}."
                )


def _check_is_real(cls_name, name, number):
    """Refuses text, which MindSpore takes for a list of its digits, and complex numbers."""
    value = number.item() if isinstance(number, np.generic) else number
    if isinstance(value, (str, bytes, complex)):
        hint = "" if isinstance(value, complex) else "; convert text with float()"
        raise TypeError(
            f"For '{cls_name}', the argument '{name}' must consist of real numbers, but got {value!r} of type "
            f"{type(value).__name__}{hint}."
        )


_TINIEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def fits_float32(number):
    """Returns True for 0 and for the positive numbers of float32. MindSpore may flush subnormal ones to 0."""
    return number == 0 or _TINIEST <= number <= _LARGEST


def check_parameters(cls_name, checked):
    """Refuses a parameter of another dtype, one without elements, and one that occurs twice."""
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


def check_betas_and_eps(cls_name, *, beta1, beta2, eps):
    """Refuses what is not a float, and what float32 does not hold between 0 and 1, or, for eps, above 0."""
    for name, value, high in (("beta1", beta1, 1.0), ("beta2", beta2, 1.0), ("eps", eps, float("inf"))):
        if not isinstance(value, float):
            raise TypeError(
                f"For '{cls_name}', the argument '{name}' must be a float, "
                f"but got {value!r} of type {type(value).__name__}."
            )
        if not (_TINIEST <= value <= _LARGEST and np.float32(value) < high):
            hint = f"; in float32 it must be at least {_TINIEST:.2g} and below {high}" if 0 < value < high else ""
            raise ValueError(
                f"For '{cls_name}', the argument '{name}' must be in the range (0.0, {high}), but got {value}{hint}."
            )


def check_bools(cls_name, **values):
    for name, value in values.items():
        if isinstance(value, bool):
            continue
        hint = ""
        if name == "use_locking" and isinstance(value, (int, float)):
            hint = "; the sixth argument is 'use_locking', pass the decay as weight_decay="
        raise TypeError(
            f"For '{cls_name}', the argument '{name}' must be a bool, "
            f"but got {value!r} of type {type(value).__name__}{hint}."
        )


def _check_type_of_loss_scale(cls_name, value):
    """Refuses what is neither a number nor a Parameter with one float32 element. `nn.Optimizer` checks the number."""
    is_dynamic = isinstance(value, Parameter)
    if isinstance(value, Tensor) and not (is_dynamic and value.dtype == mstype.float32 and value.size == 1):
        kind = "Parameter" if is_dynamic else "Tensor"
        raise TypeError(
            f"For '{cls_name}', the argument 'loss_scale' must be a float, or a Parameter of dtype float32 with one "
            f"element, but got a {kind} of {value.dtype} with the shape {tuple(value.shape)}; pass a Parameter if the "
            f"scale changes, else a float."
        )


def check_keywords(cls_name, max_grad_norm, min_offload_size, offload_ratio, moment_dtype, shard_states):
    """Refuses wrong values of the arguments that `nn.AdamOffload` does not have."""
    _check_max_grad_norm(cls_name, max_grad_norm)
    _check_min_offload_size(cls_name, min_offload_size)
    _check_offload_ratio(cls_name, offload_ratio)
    _check_moment_dtype(cls_name, moment_dtype)
    check_bools(cls_name, shard_states=shard_states)


def _check_max_grad_norm(cls_name, value):
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"For '{cls_name}', the argument 'max_grad_norm' must be None or a float, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    if not _TINIEST <= value <= _LARGEST:
        raise ValueError(
            f"For '{cls_name}', the argument 'max_grad_norm' must be None, or greater than 0 and finite in float32, "
            f"but got {value}."
        )


def _check_min_offload_size(cls_name, value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"For '{cls_name}', the argument 'min_offload_size' must be an int, a number of elements, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    if value < 0:
        raise ValueError(f"For '{cls_name}', the argument 'min_offload_size' must be at least 0, but got {value}.")


def _check_offload_ratio(cls_name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"For '{cls_name}', the argument 'offload_ratio' must be a float, the share of the states on the host, "
            f"but got {value!r} of type {type(value).__name__}."
        )
    if not 0 <= value <= 1:
        raise ValueError(
            f"For '{cls_name}', the argument 'offload_ratio' must be from 0.0 to 1.0, but got {value}; 0.4 keeps 60 % "
            f"of the states on the device."
        )


def check_device(cls_name, checked, is_stock):
    """Refuses settings in which MindSpore can't run the step, or would run it wrong."""
    target, dtypes = context.get_context("device_target"), {parameter.dtype for parameter in checked}
    if target == "Ascend" and context.get_context("jit_level") == "O2":
        raise RuntimeError(
            f"For '{cls_name}', the jit_level must be 'O0' or 'O1', but it is 'O2', where MindSpore compiles no graph "
            f"with operations on the host; call mindspore.set_context(jit_config={{'jit_level': 'O1'}})."
        )
    if target == "GPU" and mstype.bfloat16 in dtypes:
        raise TypeError(
            f"For '{cls_name}', parameters on a GPU must be of dtype float32 or float16, but got bfloat16, for which "
            f"MindSpore has neither Assign nor Cast there; use float16."
        )
    if target != "CPU" and is_stock:
        raise RuntimeError(
            f"For '{cls_name}', the stock host operation needs the device target 'CPU', but it is '{target}', where "
            f"MindSpore does not keep the order of its operations; use host_kernel='native', 'doctor' shows its state."
        )


def _check_moment_dtype(cls_name, value):
    if value not in tuple(getattr(mstype, name) for name in MOMENT_FORMATS):
        names = one_of(f"mindspore.{name}" for name in MOMENT_FORMATS)
        raise ValueError(f"For '{cls_name}', the argument 'moment_dtype' must be {names}, but got {value!r}.")


class Gradients(ops.PrimitiveWithInfer):
    """Checks parameters and gradients while a step is compiled, so that nothing has been written when it refuses.

    It is one operation for all of them, and nothing of it is left in the compiled graph. Separate checks of each
    gradient would take longer to compile than everything else.

    Args:
        optimizer_name (str): The optimizer's class.
        parameters (ParameterTuple): The parameters. Their dtypes and shapes must stay as they are now.
        check_states (Callable): A check of the states, called as well.
        check_mode (Callable): A check of the parallel mode, called as well.
    """

    def __init__(self, optimizer_name, parameters, check_states, check_mode):
        super().__init__("CheckGradients")
        self._optimizer, self._check_states, self._check_mode = optimizer_name, check_states, check_mode
        self.has_run = False
        self._parameters = parameters
        self._expected = [(each.name, tuple(each.shape), each.dtype) for each in parameters]

    def __infer__(self, parameters, gradients):
        """MindSpore calls this with the dtypes and the shapes of two tuples of tensors.

        The value of the result is True if a pipeline divides the net into stages.
        """
        self._check_mode()
        self._check_states()
        check_replaced(self._optimizer, self._parameters)
        self._check_parameters(parameters)
        dtypes, shapes = gradients["dtype"], gradients["shape"]
        if not isinstance(dtypes, tuple):
            raise RuntimeError(
                f"For '{self._optimizer}', the argument 'gradients' must be a tuple, but got another type; "
                f"pass it what the gradient function returns."
            )
        if len(dtypes) != len(self._expected):
            raise RuntimeError(
                f"For '{self._optimizer}', the argument 'gradients' must hold one gradient for each of the "
                f"{len(self._expected)} parameters, in their order, but got {len(dtypes)}."
            )
        for (name, expected_shape, _), dtype, shape in zip(self._expected, dtypes, shapes):
            self._check_gradient(name, expected_shape, dtype, shape)
        self.has_run = True
        return {"shape": (), "dtype": mstype.bool_, "value": parallel_mode.has_stages()}

    def _check_parameters(self, parameters):
        for (name, *expected), dtype, shape in zip(self._expected, parameters["dtype"], parameters["shape"]):
            for what, value, now in zip(("shape", "dtype"), expected, (tuple(shape), dtype.element_type())):
                if now != value:
                    raise TypeError(
                        f"For '{self._optimizer}', the parameter '{name}' must keep its {what} {value}, but got {now}; "
                        f"make the optimizer after the parameters have their final dtypes and shapes."
                    )

    def _check_gradient(self, name, expected_shape, dtype, shape):
        if shape is None and dtype is not None:  # MindSpore reports neither for a row-sparse gradient
            raise RuntimeError(
                f"For '{self._optimizer}', the gradient of '{name}' must be dense, but got a row-sparse one; "
                f"set sparse=False in the embedding that it belongs to."
            )
        if not isinstance(dtype, mstype.TensorType):
            raise TypeError(
                f"For '{self._optimizer}', the gradient of '{name}' must be a Tensor, but got {dtype}; "
                f"leave parameters without a gradient out of the optimizer."
            )
        if tuple(shape) != expected_shape:
            raise ValueError(
                f"For '{self._optimizer}', the gradient of '{name}' must have the shape of its parameter, "
                f"{expected_shape}, but got {tuple(shape)}."
            )
        if dtype.element_type() not in FLOATS:
            raise TypeError(
                f"For '{self._optimizer}', the gradient of '{name}' must be of dtype float32, float16 or bfloat16, "
                f"but got {dtype.element_type()}."
            )
