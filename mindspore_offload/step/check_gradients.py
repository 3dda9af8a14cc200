# SPDX-License-Identifier: Apache-2.0

"""Refuses wrong gradients and changed parameters while a step is compiled."""

from mindspore import TensorType, bool_, ops

from mindspore_offload.checks import FLOATS
from mindspore_offload.distributed import parallel_mode
from mindspore_offload.errors import refuse


class CheckGradients(ops.PrimitiveWithInfer):
    """Checks parameters and gradients while a step is compiled, so that nothing has been written when it refuses.

    It is one operation for all of them, and nothing of it is left in the compiled graph. Separate checks of each
    gradient would take longer to compile than everything else.

    Args:
        optimizer_name (str): The optimizer's class.
        parameters (ParameterTuple): The parameters. Their dtypes and shapes must stay as they are now.
        others (Callable): Other checks. They are called first.
    """

    def __init__(self, optimizer_name, parameters, *others):
        super().__init__("CheckGradients")
        self._optimizer, self._others, self.has_run = optimizer_name, others, False
        self._expected = [(each.name, tuple(each.shape), each.dtype) for each in parameters]

    def __infer__(self, parameters, gradients):
        """MindSpore calls this with the dtypes and the shapes of two tuples of tensors.

        The value of the result is True if a pipeline divides the net into stages.
        """
        for check in self._others:
            check()
        for (name, *expected), shape, dtype in zip(self._expected, parameters["shape"], parameters["dtype"]):
            now = [tuple(shape), dtype.element_type()]
            if now != expected:
                must = f"keep its shape {expected[0]} and its dtype {expected[1]}"
                cure = "make the optimizer after the parameters have their final dtypes and shapes"
                refuse(TypeError, self._optimizer, f"parameter '{name}'", must, f"{now[0]} and {now[1]}", cure)
        dtypes, what = gradients["dtype"], "argument 'gradients'"
        if not isinstance(dtypes, tuple):
            got, cure = "another type", "pass it what the gradient function returns"
            refuse(RuntimeError, self._optimizer, what, "be a tuple", got, cure)
        if len(dtypes) != len(self._expected):
            must = f"hold one gradient for each of the {len(self._expected)} parameters, in their order"
            refuse(RuntimeError, self._optimizer, what, must, len(dtypes))
        for (name, expected_shape, _), dtype, shape in zip(self._expected, dtypes, gradients["shape"]):
            self._check_gradient(name, expected_shape, dtype, shape)
        self.has_run = True
        return {"shape": (), "dtype": bool_, "value": parallel_mode.has_stages()}

    def _check_gradient(self, name, expected_shape, dtype, shape):
        who, what = self._optimizer, f"gradient of '{name}'"
        if shape is None and dtype is not None:  # MindSpore reports neither for a row-sparse gradient
            cure = "set sparse=False in the embedding that it belongs to"
            refuse(RuntimeError, who, what, "be dense", "a row-sparse one", cure)
        if not isinstance(dtype, TensorType):
            cure = "leave parameters without a gradient out of the optimizer"
            refuse(TypeError, who, what, "be a Tensor", dtype, cure)
        if tuple(shape) != expected_shape:
            refuse(ValueError, who, what, f"have the shape of its parameter, {expected_shape}", tuple(shape))
        if dtype.element_type() not in FLOATS:
            refuse(TypeError, who, what, "be of dtype float32, float16 or bfloat16", dtype.element_type())
