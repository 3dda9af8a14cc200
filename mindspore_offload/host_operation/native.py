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
        self.update = _AdamInPlace(len(bucket.parameters))

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
    """The operation `AdamInPlace` of the native library, for a bucket of so many tensors."""

    def __init__(self, tensors):
        super().__init__(f"{native_library.PATH}:AdamInPlace", (1,), mstype.float32, "aot")
        inputs = ["coefficients", "rows"] + [f"{role}_{i}" for role in _ROLES for i in range(tensors)]
        self.set_signatures(
            tuple(
                sig.make_sig(name, sig.sig_rw.RW_WRITE if name.startswith(_ROLES[:3]) else sig.sig_rw.RW_READ)
                for name in inputs
            )
        )
        self.add_prim_attr("side_effect_mem", True)
        self.set_device("CPU")
