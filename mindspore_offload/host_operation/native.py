"""The native host operation: one launch of our own kernel a bucket."""

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F
from mindspore.ops import signature as sig

from mindspore_offload import native_library, writeback
from mindspore_offload.placement import on_host

_decay = C.MultitypeFuncGraph("decay")
_write = C.MultitypeFuncGraph("write")

_WRITTEN = ("parameter", "moment1", "moment2", "master")


class _Native(nn.Cell):
    """What both writebacks give to the library."""

    def __init__(self, bucket):
        super().__init__(auto_prefix=False)
        self.start, self.stop = bucket.start, bucket.stop
        self.rows = Tensor(np.array(bucket.rows, np.int32))
        self.parameters = ParameterTuple(bucket.parameters)
        self.moment1 = ParameterTuple(bucket.moment1)
        self.moment2 = ParameterTuple(bucket.moment2)
        self.halves, self.masters = _halves(bucket)


class NativeInPlace(_Native):
    """Writes the parameters of a bucket in host memory. See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, use_locking, use_nesterov, unscale):
        super().__init__(bucket)
        # The library runs one operation after the other in any case, and takes the rest from the coefficients.
        del use_locking, use_nesterov, unscale
        tensors = len(bucket.parameters)
        names = _names(parameter=tensors, moment1=tensors, moment2=tensors, gradient=tensors, master=len(self.masters))
        # An attribute of its own: side effects of an operation that is taken out of a tuple are not seen, and lost.
        self.update = _Adam("AdamInPlace", names, (1,), mstype.float32)

    def construct(self, coefficients, gradients):
        return self.update(
            coefficients,
            self.rows,
            *self.parameters,
            *self.moment1,
            *self.moment2,
            *gradients[self.start : self.stop],
            *self.masters,
        )


class NativeAssign(_Native):
    """Returns what the device then writes. See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, use_locking, use_nesterov, unscale):
        super().__init__(bucket)
        del use_locking, use_nesterov, unscale
        tensors, halves = len(bucket.parameters), len(self.masters)
        names = _names(moment1=tensors, moment2=tensors, gradient=tensors, half=halves, master=halves)
        # An output of no dimension would be taken for a number, so it gets one.
        shapes = tuple(tuple(parameter.shape) or (1,) for parameter in bucket.parameters)
        dtypes = tuple(parameter.dtype for parameter in bucket.parameters)
        self.update = _Adam("AdamAssign", names, shapes, dtypes)

        # With a master, the host has the weight and adds the decay itself.
        self.decays = tuple(has and dtype == mstype.float32 for has, dtype in zip(bucket.decays, dtypes))
        self.some_decay = any(self.decays)
        self.row_of = bucket.rows
        self.unstack = on_host(ops.Unstack())
        self.map_ = C.Map()
        self.writes = nn.CellList(
            [writeback.Write(parameter, "assign") for parameter in bucket.parameters], auto_prefix=False
        )

    def construct(self, coefficients, gradients):
        gradients = gradients[self.start : self.stop]
        if self.some_decay:
            rows = self.unstack(coefficients)
            gradients = self.map_(
                F.partial(_decay, self.unstack, rows), self.row_of, self.decays, self.parameters, gradients
            )
        results = self.update(
            coefficients, self.rows, *self.moment1, *self.moment2, *gradients, *self.halves, *self.masters
        )
        return self.map_(_write, self.writes, results)


class _Adam(ops.Custom):
    """An operation of the native library with these inputs after the coefficients and rows."""

    # Where the device is an Ascend, "aot" would mean an operator for it; ours runs on the host all the same.
    is_ascend_c = property(lambda self: False, lambda self, value: None)

    def __init__(self, function, inputs, shapes, dtypes):
        several = isinstance(dtypes, tuple)
        super().__init__(f"{native_library.PATH}:{function}", lambda *_: shapes, lambda *_: dtypes, "aot")
        if several:
            self.add_prim_attr("multi_output", True)
        self.set_signatures(
            tuple(
                sig.make_sig(name, sig.sig_rw.RW_WRITE if name.startswith(_WRITTEN) else sig.sig_rw.RW_READ)
                for name in ("coefficients", "rows", *inputs)
            )
        )
        self.add_prim_attr("side_effect_mem", True)
        on_host(self)


def _names(**counts):
    return [f"{role}_{i}" for role, count in counts.items() for i in range(count)]


def _halves(bucket):
    """The 16-bit parameters of a bucket, and their masters."""
    pairs = [(p, master) for p, master in zip(bucket.parameters, bucket.weights) if p is not master]
    return ParameterTuple(p for p, _ in pairs), ParameterTuple(master for _, master in pairs)


@_decay.register("Function", "Tuple", "Number", "Bool", "Tensor", "Tensor")
def _decay_one(unstack, rows, row, decay, parameter, gradient):
    if decay:
        return writeback.decayed(gradient, parameter, unstack(rows[row])[1])
    return gradient


@_write.register("Function", "Tensor")
def _write_one(write, result):
    return write(result)
