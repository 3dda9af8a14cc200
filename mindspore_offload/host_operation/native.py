"""The native host operation: one launch of our own kernel a bucket, in place."""

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import signature as sig

from mindspore_offload import native_library

_ROLES = ("parameter", "moment1", "moment2", "gradient")


class NativeUpdate(nn.Cell):
    """See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, use_locking, use_nesterov, unscale):
        super().__init__(auto_prefix=False)
        # The library runs one operation after the other in any case, and takes the rest from the coefficients.
        del use_locking, use_nesterov, unscale
        self.parameters = ParameterTuple(bucket.parameters)
        self.moment1 = ParameterTuple(bucket.moment1)
        self.moment2 = ParameterTuple(bucket.moment2)
        self.rows = Tensor(np.array(bucket.rows, np.int32))
        self.start, self.stop = bucket.start, bucket.stop
        # An attribute of its own: side effects of an operation that is taken out of a tuple are not seen, and lost.
        self.update = _AdamInPlace([parameter.name for parameter in bucket.parameters])

    def construct(self, coefficients, gradients):
        return self.update(
            coefficients,
            self.rows,
            *self.parameters,
            *self.moment1,
            *self.moment2,
            *gradients[self.start : self.stop],
        )


class _AdamInPlace(ops.Custom):
    """The operation `AdamInPlace` of the native library, for parameters of the given names."""

    def __init__(self, names):
        self._names = names
        super().__init__(f"{native_library.PATH}:AdamInPlace", self._infer_shape, self._infer_dtype, "aot")
        inputs = ["coefficients", "rows"] + [f"{role}_{i}" for role in _ROLES for i in range(len(names))]
        self.set_signatures(
            tuple(
                sig.make_sig(name, sig.sig_rw.RW_WRITE if name.startswith(_ROLES[:3]) else sig.sig_rw.RW_READ)
                for name in inputs
            )
        )
        self.add_prim_attr("side_effect_mem", True)
        self.set_device("CPU")

    def _infer_shape(self, _coefficients, _rows, *shapes):
        self._compare("shape", shapes, ValueError)
        return (1,)

    def _infer_dtype(self, _coefficients, _rows, *dtypes):
        self._compare("dtype", dtypes, TypeError)
        return mstype.float32

    def _compare(self, what, values, error):
        """Refuses gradients that don't fit their parameters while the graph is compiled, before anything is written."""
        count = len(self._names)
        parameters, gradients = values[:count], values[3 * count :]
        for name, parameter, gradient in zip(self._names, parameters, gradients):
            if gradient != parameter:
                raise error(
                    f"For 'AdamOffload', the gradient of '{name}' must have the {what} of its parameter, {parameter}, "
                    f"but got {gradient}."
                )
