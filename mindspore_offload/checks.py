"""Refuses bad input in MindSpore's words: the class, the argument, what was expected, what came, and what to do."""

from collections.abc import Iterable

import numpy as np
from mindspore import Parameter, ops
from mindspore import dtype as mstype

from mindspore_offload.dtypes import ELEMENT_TYPES

FLOATS = tuple(getattr(mstype, name) for name in ELEMENT_TYPES)


def with_lists(params):
    """Returns `params` with lists in its groups: `nn.Optimizer` reads a group twice, which empties a generator."""
    if not isinstance(params, Iterable):
        return params
    return [_group_with_lists(item) if isinstance(item, dict) else item for item in params]


def _group_with_lists(group):
    return {
        key: list(value) if key in ("params", "order_params") and isinstance(value, Iterable) else value
        for key, value in group.items()
    }


def parameters(cls_name, checked):
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


def betas_and_eps(cls_name, *, beta1, beta2, eps):
    """Refuses what is not a float, and what is not between 0 and 1, or, for eps, not greater than 0."""
    for name, value, high in (("beta1", beta1, 1.0), ("beta2", beta2, 1.0), ("eps", eps, float("inf"))):
        if not isinstance(value, float):
            raise TypeError(
                f"For '{cls_name}', the argument '{name}' must be a float, "
                f"but got {value!r} of type {type(value).__name__}."
            )
        if not 0.0 < value < high:
            raise ValueError(
                f"For '{cls_name}', the argument '{name}' must be in the range (0.0, {high}), but got {value}."
            )


def bools(cls_name, **values):
    for name, value in values.items():
        if not isinstance(value, bool):
            raise TypeError(
                f"For '{cls_name}', the argument '{name}' must be a bool, "
                f"but got {value!r} of type {type(value).__name__}."
            )


def dynamic_loss_scale(cls_name, loss_scale):
    """Refuses a Parameter that is not one float32 number. `nn.Optimizer` checks other loss scales."""
    if isinstance(loss_scale, Parameter) and (loss_scale.dtype != mstype.float32 or loss_scale.size != 1):
        raise TypeError(
            f"For '{cls_name}', the argument 'loss_scale' must be a float, or a Parameter of dtype float32 with one "
            f"element, but got a Parameter of {loss_scale.dtype} with the shape {tuple(loss_scale.shape)}."
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


class Gradients(ops.PrimitiveWithInfer):
    """Checks parameters and gradients while a step is compiled, so that nothing has been written when it refuses.

    It is one operation for all of them, and nothing of it is left in the compiled graph. Separate checks of each
    gradient would take longer to compile than everything else.

    Args:
        optimizer_name (str): The optimizer's class.
        parameters (ParameterTuple): The parameters. Their dtypes and shapes must stay as they are now.
    """

    def __init__(self, optimizer_name, parameters):
        super().__init__("CheckGradients")
        self._optimizer = optimizer_name
        self._expected = [(each.name, tuple(each.shape), each.dtype) for each in parameters]

    def __infer__(self, parameters, gradients):
        """MindSpore calls this with the dtypes and the shapes of two tuples of tensors."""
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
        return {"shape": (), "dtype": mstype.bool_, "value": True}

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
