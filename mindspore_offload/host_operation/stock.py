"""The stock host operation: MindSpore's own operations, a few launches a parameter.

Adam is the operation of `nn.Adam`, placed on the host. It splits its work by the number of threads alone, so a run
repeats to the bit, while `AdamNoUpdateParam`, which is under `nn.AdamOffload`, searches for its split by timing and
rounds the ends of the parts differently. `FusedCastAdamWeightDecay` has no vector code on x86-64.
"""

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F
from mindspore.ops import signature as sig

from mindspore_offload.coefficients import BETA1, BETA2, EPS, LEARNING_RATE
from mindspore_offload.host_operation.parameter_update import UpdateByDifference, UpdateInPlace, UpdateMaster
from mindspore_offload.placement import on_device, on_host
from mindspore_offload.writeback import Write

_run = C.MultitypeFuncGraph("run")
_sum_squares = C.MultitypeFuncGraph("sum_squares")


class _Updates(nn.Cell):
    """An update for each parameter of a bucket, whose operations are placed by `place`."""

    def __init__(self, bucket, algorithm, writeback, place):
        super().__init__(auto_prefix=False)
        self.start, self.stop = bucket.start, bucket.stop
        self.rows = bucket.rows
        self.unstack = on_host(ops.Unstack())
        self.map_, self.map_reverse = C.Map(), C.Map(None, True)
        self.updates = nn.CellList(auto_prefix=False)
        write_place = place if writeback == "in_place" else on_device
        tensors = zip(bucket.parameters, bucket.weights, bucket.moment1, bucket.moment2)
        for each, decay in zip(tensors, bucket.decays):
            parameter, weight, *_ = each
            arguments = each, _Adam(algorithm, place, parameter is weight), decay, algorithm, place
            if parameter is weight and writeback == "in_place":
                update = UpdateInPlace(*arguments)
            else:
                write = Write(parameter, write_place, decay and algorithm.decoupled)
                update = (UpdateByDifference if parameter is weight else UpdateMaster)(write, *arguments)
            self.updates.append(update)

    def construct(self, coefficients, gradients):
        rows = self.map_(self.unstack, self.unstack(coefficients))
        return self.map_reverse(F.partial(_run, rows), self.updates, self.rows, gradients[self.start : self.stop])


class StockUpdate(_Updates):
    """See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, algorithm, *, writeback):
        super().__init__(bucket, algorithm, writeback, on_host)


class DeviceUpdate(_Updates):
    """The same interface, for small parameters that stay on the device, and their states and operations with them."""

    def __init__(self, bucket, algorithm):
        super().__init__(bucket, algorithm, "in_place", on_device)


class StockNorm(nn.Cell):
    """The norm of a tuple of gradients, of shape (1,), summed in float64 on the host."""

    def __init__(self, gradients):
        super().__init__(auto_prefix=False)
        del gradients  # any number
        self.map_ = C.Map()
        self.cast, self.square, self.sum = on_host(ops.Cast()), on_host(ops.Square()), on_host(ops.ReduceSum())
        self.add_all, self.sqrt, self.reshape = on_host(ops.AddN()), on_host(ops.Sqrt()), on_host(ops.Reshape())

    def construct(self, gradients):
        squares = self.map_(F.partial(_sum_squares, self.cast, self.square, self.sum), gradients)
        return self.reshape(self.cast(self.sqrt(self.add_all(squares)), mstype.float32), (1,))


class _Adam(nn.Cell):
    """MindSpore's operation Adam, which writes a float32 weight and its moments where they are.

    MindSpore is told of the write to the weight or not. If it is, it copies a weight that is not a Parameter and that
    others read too, on the device. That of a master has been read before: the gradient comes from there. If it is not,
    it gives equal weights, as differences begin, the same memory.
    """

    def __init__(self, algorithm, place, tell):
        super().__init__(auto_prefix=False)
        adam = ops.Adam(algorithm.use_locking, algorithm.nesterov)
        if not tell:
            _, *others = adam.__mindspore_signature__
            adam.set_signatures((sig.make_sig("var", sig.sig_rw.RW_READ, dtype=sig.sig_dtype.T), *others))
        self.adam = place(adam)
        # It wants to correct the bias itself, but the learning rate that it gets is corrected already.
        self.no_power = Tensor(0.0, mstype.float32)

    def construct(self, weight, moment1, moment2, gradient, row):
        """The updated `weight`."""
        launched = self.adam(
            weight,
            moment1,
            moment2,
            self.no_power,
            self.no_power,
            row[LEARNING_RATE],
            row[BETA1],
            row[BETA2],
            row[EPS],
            gradient,
        )
        return F.depend(weight, launched)


@_run.register("Tuple", "Function", "Number", "Tensor")
def _run_one(rows, update, row, gradient):
    return update(rows[row], gradient)


@_sum_squares.register("Function", "Function", "Function", "Tensor")
def _sum_squares_of(cast, square, reduce_sum, gradient):
    return reduce_sum(square(cast(gradient, mstype.float64)))
