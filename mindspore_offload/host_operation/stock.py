"""The stock host operation: MindSpore's own operations, a few launches a parameter."""

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindspore_offload.coefficients import COLUMNS
from mindspore_offload.placement import on_host
from mindspore_offload.writeback import Write, decayed

LEARNING_RATE, WEIGHT_DECAY, BETA1, BETA2, EPS, GRADIENT_SCALE, _ = range(len(COLUMNS))

_run = C.MultitypeFuncGraph("run")


class StockUpdate(nn.Cell):
    """See `mindspore_offload.host_operation` for the interface."""

    def __init__(self, bucket, use_locking, use_nesterov, unscale, *, writeback):
        super().__init__(auto_prefix=False)
        self.start, self.stop = bucket.start, bucket.stop
        self.rows = bucket.rows
        self.unstack = on_host(ops.Unstack())
        self.map_reverse = C.Map(None, True)
        tensors = zip(bucket.parameters, bucket.weights, bucket.moment1, bucket.moment2, bucket.decays)
        self.updates = nn.CellList(auto_prefix=False)
        for parameter, weight, moment1, moment2, decay in tensors:
            write = Write(parameter, writeback)
            if parameter is weight:
                adam = _difference(parameter)(use_locking, use_nesterov)
                update = _UpdateFloat32(parameter, moment1, moment2, adam, write, decay, unscale)
            else:
                adam = _FusedCastAdam(use_locking, use_nesterov)
                update = _UpdateHalf(parameter, weight, moment1, moment2, adam, write, decay, unscale)
            self.updates.append(update)

    def construct(self, coefficients, gradients):
        rows = ()
        for row in self.unstack(coefficients):
            rows += (self.unstack(row),)
        return self.map_reverse(F.partial(_run, rows), self.updates, self.rows, gradients[self.start : self.stop])


class _UpdateFloat32(nn.Cell):
    """Adds to the parameter what Adam says, a tensor that the host computes."""

    def __init__(self, parameter, moment1, moment2, adam, write, decay, unscale):
        super().__init__(auto_prefix=False)
        self.parameter, self.moment1, self.moment2 = parameter, moment1, moment2
        self.adam, self.write = adam, write
        self.decay, self.unscale = decay, unscale
        self.cast, self.mul = on_host(ops.Cast()), on_host(ops.Mul())

    def construct(self, row, gradient):
        if self.decay:
            gradient = decayed(gradient, self.parameter, row[WEIGHT_DECAY])
        gradient = self.cast(gradient, mstype.float32)
        if self.unscale:
            gradient = self.mul(gradient, row[GRADIENT_SCALE])
        return self.write(self.adam(self.moment1, self.moment2, gradient, row))


class _UpdateHalf(nn.Cell):
    """Updates the master, on the host, and writes it to the parameter, rounded.

    A parameter that is not its master rounded has been changed by somebody else, and becomes the master first.
    """

    def __init__(self, parameter, master, moment1, moment2, adam, write, decay, unscale):
        super().__init__(auto_prefix=False)
        self.parameter, self.master, self.moment1, self.moment2 = parameter, master, moment1, moment2
        self.adam, self.write = adam, write
        self.decay, self.unscale = decay, unscale
        self.cast, self.mul, self.add = on_host(ops.Cast()), on_host(ops.Mul()), on_host(ops.Add())
        self.not_equal, self.select = on_host(ops.NotEqual()), on_host(ops.Select())
        self.assign_master = on_host(ops.Assign())

    def construct(self, row, gradient):
        found = self.cast(self.parameter, mstype.float32)
        rounded = self.cast(self.cast(self.master, self.parameter.dtype), mstype.float32)
        master = self.select(self.not_equal(found, rounded), found, self.master)
        gradient = self.cast(gradient, mstype.float32)
        if self.decay:
            gradient = self.add(gradient, self.mul(master, row[WEIGHT_DECAY]))
        if self.unscale:
            gradient = self.mul(gradient, row[GRADIENT_SCALE])
        updated = self.adam(master, self.moment1, self.moment2, gradient, row)
        self.assign_master(self.master, updated)
        return self.write(self.cast(updated, self.parameter.dtype))


class _FusedCastAdam(nn.Cell):
    """FusedCastAdamWeightDecay as Adam: with the bias-corrected rate, and without its decoupled decay."""

    def __init__(self, use_locking, use_nesterov):
        super().__init__(auto_prefix=False)
        self.use_nesterov = use_nesterov
        self.adam = on_host(ops.FusedCastAdamWeightDecay(use_locking))
        self.no_decay, self.no_norm = Tensor(0.0, mstype.float32), Tensor(1.0, mstype.float32)
        self.one = Tensor(1.0, mstype.float32)
        self.mul, self.div = on_host(ops.Mul()), on_host(ops.Div())
        self.add, self.sub, self.sqrt = on_host(ops.Add()), on_host(ops.Sub()), on_host(ops.Sqrt())

    def construct(self, weight, moment1, moment2, gradient, row):
        """The updated `weight`, which is also written where it is."""
        rate, beta1 = row[LEARNING_RATE], row[BETA1]
        # Nesterov's direction is beta1 * moment1 + (1 - beta1) * gradient. The operation adds the first term.
        own_rate = self.mul(rate, beta1) if self.use_nesterov else rate
        launched = self.adam(
            weight, moment1, moment2, own_rate, beta1, row[BETA2], row[EPS], self.no_decay, gradient, self.no_norm
        )
        updated = F.depend(weight, launched)
        if self.use_nesterov:
            look_ahead = self.mul(gradient, self.mul(rate, self.sub(self.one, beta1)))
            root = self.sqrt(F.depend(moment2, launched))
            updated = self.sub(updated, self.div(look_ahead, self.add(root, row[EPS])))
        return updated


class _FusedCastDifference(nn.Cell):
    """The difference that FusedCastAdamWeightDecay makes, for MindSpore releases without AdamNoUpdateParam."""

    def __init__(self, use_locking, use_nesterov):
        super().__init__(auto_prefix=False)
        self.adam = _FusedCastAdam(use_locking, use_nesterov)
        self.zero = Tensor(0.0, mstype.float32)
        self.mul = on_host(ops.Mul())

    def construct(self, moment1, moment2, gradient, row):
        # A product and not a constant, because the operation writes into it.
        weight = self.mul(gradient, self.zero)
        return self.adam(weight, moment1, moment2, gradient, row)


class _NoUpdateParam(nn.Cell):
    """The difference that AdamNoUpdateParam returns."""

    def __init__(self, use_locking, use_nesterov):
        super().__init__(auto_prefix=False)
        self.adam = on_host(ops.AdamNoUpdateParam(use_locking, use_nesterov))
        # It wants to correct the bias itself, but the learning rate that it gets is corrected already.
        self.no_power = Tensor(0.0, mstype.float32)

    def construct(self, moment1, moment2, gradient, row):
        return self.adam(
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


class _NoUpdateParamOfScalar(nn.Cell):
    """AdamNoUpdateParam refuses tensors without a dimension: they get one here, and the moments are written back."""

    def __init__(self, use_locking, use_nesterov):
        super().__init__(auto_prefix=False)
        self.adam = _NoUpdateParam(use_locking, use_nesterov)
        self.reshape, self.assign = on_host(ops.Reshape()), on_host(ops.Assign())

    def construct(self, moment1, moment2, gradient, row):
        m, v = self.reshape(moment1, (1,)), self.reshape(moment2, (1,))
        difference = self.adam(m, v, self.reshape(gradient, (1,)), row)
        self.assign(moment1, self.reshape(F.depend(m, difference), ()))
        self.assign(moment2, self.reshape(F.depend(v, difference), ()))
        return self.reshape(difference, ())


def _difference(parameter):
    """The operation that makes the difference for a float32 parameter."""
    if not hasattr(ops, "AdamNoUpdateParam"):
        return _FusedCastDifference
    return _NoUpdateParam if parameter.shape else _NoUpdateParamOfScalar


@_run.register("Tuple", "Function", "Number", "Tensor")
def _run_one(rows, update, row, gradient):
    return update(rows[row], gradient)
