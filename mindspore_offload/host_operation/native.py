"""The native host operation: one launch of our own kernel a bucket."""

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F
from mindspore.ops import signature as sig

from mindspore_offload import native_library, writeback
from mindspore_offload.coefficients import CLIP, DECOUPLED_DECAY, WEIGHT_DECAY
from mindspore_offload.placement import on_device, on_host

_decay = C.MultitypeFuncGraph("decay")
_decoupled_decay = C.MultitypeFuncGraph("decoupled_decay")
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

    def __init__(self, bucket, algorithm):
        super().__init__(bucket)
        # The library runs one operation after the other in any case, and takes the rest from the coefficients.
        del algorithm
        tensors = len(bucket.parameters)
        names = _names(parameter=tensors, moment1=tensors, moment2=tensors, gradient=tensors, master=len(self.masters))
        # An attribute of its own: side effects of an operation that is taken out of a tuple are not seen, and lost.
        self.update = _Operation("AdamInPlace", ["coefficients", "rows", *names], (1,), mstype.float32)

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

    def __init__(self, bucket, algorithm):
        super().__init__(bucket)
        tensors, halves = len(bucket.parameters), len(self.masters)
        names = _names(moment1=tensors, moment2=tensors, gradient=tensors, half=halves, master=halves)
        # An output of no dimension would be taken for a number, so it gets one.
        shapes = tuple(tuple(parameter.shape) or (1,) for parameter in bucket.parameters)
        dtypes = tuple(parameter.dtype for parameter in bucket.parameters)
        self.update = _Operation("AdamAssign", ["coefficients", "rows", *names], shapes, dtypes)

        # With a master, the host has the weight and decays it, or its gradient, itself.
        decays = [has and dtype == mstype.float32 for has, dtype in zip(bucket.decays, dtypes)]
        self.some_decay = any(decays)
        self.penalties = tuple(has and not algorithm.decoupled for has in decays)
        self.clip = algorithm.clip
        self.row_of = bucket.rows
        self.unstack = on_host(ops.Unstack())
        self.clip_before_decay = _ClipBeforeDecay()
        self.map_ = C.Map()
        self.writes = nn.CellList(
            [
                writeback.Write(parameter, on_device, has and algorithm.decoupled)
                for parameter, has in zip(bucket.parameters, decays)
            ],
            auto_prefix=False,
        )

    def construct(self, coefficients, gradients):
        gradients = gradients[self.start : self.stop]
        decoupled_decays = self.row_of  # not looked at
        if self.some_decay:
            rows = self.map_(self.unstack, self.unstack(coefficients))
            clips = self.map_(self.clip_before_decay, rows) if self.clip else ()
            gradients = self.map_(
                F.partial(_decay, rows, clips), self.row_of, self.penalties, self.parameters, gradients
            )
            decoupled_decays = self.map_(F.partial(_decoupled_decay, rows), self.row_of)
        results = self.update(
            coefficients, self.rows, *self.moment1, *self.moment2, *gradients, *self.halves, *self.masters
        )
        return self.map_(_write, self.writes, results, decoupled_decays)


class _ClipBeforeDecay(nn.Cell):
    """What the device clips a gradient with before it adds the penalty.

    The kernel takes a decay of 0, as a Cell may give it in some step, for none, and clips then itself.
    """

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.equal, self.select, self.one = on_host(ops.Equal()), on_host(ops.Select()), Tensor(1.0, mstype.float32)

    def construct(self, row):
        return self.select(self.equal(row[WEIGHT_DECAY], 0), self.one, row[CLIP])


class NativeNorm(nn.Cell):
    """The norm of a tuple of gradients, of shape (1,): one launch for all of them."""

    def __init__(self, gradients):
        super().__init__(auto_prefix=False)
        self.norm = _Operation("GradientNorm", _names(gradient=gradients), (1,), mstype.float32)

    def construct(self, gradients):
        return self.norm(*gradients)


class _Operation(ops.Custom):
    """A function of the native library as an operation with these inputs and outputs."""

    # Where the device is an Ascend, "aot" would mean an operator for it; ours runs on the host all the same.
    is_ascend_c = property(lambda self: False, lambda self, value: None)

    def __init__(self, function, inputs, shapes, dtypes):
        super().__init__(f"{native_library.PATH}:{function}", lambda *_: shapes, lambda *_: dtypes, "aot")
        if isinstance(dtypes, tuple):
            self.add_prim_attr("multi_output", True)
        written = [name.startswith(_WRITTEN) for name in inputs]
        self.set_signatures(
            tuple(
                sig.make_sig(name, sig.sig_rw.RW_WRITE if is_written else sig.sig_rw.RW_READ)
                for name, is_written in zip(inputs, written)
            )
        )
        if any(written):
            self.add_prim_attr("side_effect_mem", True)
        on_host(self)


def _names(**counts):
    return [f"{role}_{i}" for role, count in counts.items() for i in range(count)]


def _halves(bucket):
    """The 16-bit parameters of a bucket, and their masters."""
    pairs = [(p, master) for p, master in zip(bucket.parameters, bucket.weights) if p is not master]
    return ParameterTuple(p for p, _ in pairs), ParameterTuple(master for _, master in pairs)


@_decay.register("Tuple", "Tuple", "Number", "Bool", "Tensor", "Tensor")
def _decay_one(rows, clips, row, penalty, parameter, gradient):
    if penalty:
        return writeback.decayed(gradient, parameter, rows[row][WEIGHT_DECAY], clips[row] if clips else None)
    return gradient


@_decoupled_decay.register("Tuple", "Number")
def _decoupled_decay_of(rows, row):
    return rows[row][DECOUPLED_DECAY]


@_write.register("Function", "Tensor", "Tensor")
@_write.register("Function", "Tensor", "Number")
def _write_one(write, result, decoupled_decay):
    return write(result, decoupled_decay)
