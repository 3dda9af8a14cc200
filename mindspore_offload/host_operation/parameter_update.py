"""What goes around an Adam operation of MindSpore's for one parameter: gradient, decay, master and write."""

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_offload.coefficients import CLIP, DECOUPLED_DECAY, GRADIENT_SCALE, SKIP, WEIGHT_DECAY
from mindspore_offload.writeback import decayed


class _Update(nn.Cell):
    """What all updates share.

    Args:
        tensors (tuple): The parameter, its float32 weight (itself or its master), its moments.
        adam (Cell): The Adam operation.
        decay (bool): Whether the parameter has a weight decay.
        algorithm (Algorithm): What is computed.
        place (Callable): Places operations.
    """

    def __init__(self, tensors, adam, decay, algorithm, place):
        super().__init__(auto_prefix=False)
        self.parameter, self.weight, self.moment1, self.moment2 = tensors
        self.adam = adam
        self.penalty, self.decoupled = decay and not algorithm.decoupled, decay and algorithm.decoupled
        self.unscale, self.clip, self.skip = algorithm.unscale, algorithm.clip, algorithm.skip
        self.cast, self.mul, self.add, self.sub = (place(op()) for op in (ops.Cast, ops.Mul, ops.Add, ops.Sub))
        self.greater, self.select, self.zero = place(ops.Greater()), place(ops.Select()), Tensor(0.0, mstype.float32)

    def unless_skipped(self, row, value, otherwise):
        """`value`; `otherwise` in a step that is not taken."""
        if self.skip:
            value = self.select(self.greater(row[SKIP], 0), otherwise, value)
        return value

    def readable(self, row, gradient):
        """The gradient as float32; zeros in a step that is not taken."""
        gradient = self.cast(gradient, mstype.float32)
        return self.unless_skipped(row, gradient, self.zero)

    def clipped(self, row, gradient):
        return self.mul(gradient, row[CLIP]) if self.clip else gradient

    def unscaled(self, row, gradient):
        return self.mul(gradient, row[GRADIENT_SCALE]) if self.unscale else gradient

    def complete(self, row, gradient, weight):
        """The gradient that the moments take, where the weight is at hand."""
        gradient = self.clipped(row, self.readable(row, gradient))
        if self.penalty:
            gradient = self.add(gradient, self.mul(weight, row[WEIGHT_DECAY]))
        return self.unscaled(row, gradient)


class UpdateByDifference(_Update):
    """Of a float32 parameter that is not where its states are: `adam` makes a difference, and `write` adds it."""

    def __init__(self, write, *arguments):
        super().__init__(*arguments)
        self.write = write

    def construct(self, row, gradient):
        if self.penalty:
            gradient = decayed(gradient, self.parameter, row[WEIGHT_DECAY], row[CLIP] if self.clip else None)
            gradient = self.readable(row, gradient)
        else:
            gradient = self.clipped(row, self.readable(row, gradient))
        gradient = self.unscaled(row, gradient)
        # The update of a weight of zero. It is a product and not a constant, because the operation writes into it.
        nothing = self.mul(gradient, self.zero)
        return self.write(self.adam(nothing, self.moment1, self.moment2, gradient, row), row[DECOUPLED_DECAY])


class UpdateInPlace(_Update):
    """Of a float32 parameter that is where its states are: `adam` writes it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.subtract = arguments[-1](ops.AssignSub())

    def construct(self, row, gradient):
        gradient = self.complete(row, gradient, self.parameter)
        if self.decoupled:
            self.subtract(self.parameter, self.mul(self.parameter, row[DECOUPLED_DECAY]))
        return self.adam(self.parameter, self.moment1, self.moment2, gradient, row)


class UpdateMaster(_Update):
    """Of a 16-bit parameter: `adam` updates the master, and `write` puts it, rounded, into the parameter.

    A parameter that is not its master rounded has been changed by somebody else, and becomes the master first.
    """

    def __init__(self, write, *arguments):
        super().__init__(*arguments)
        place = arguments[-1]
        self.write = write
        self.not_equal, self.assign = place(ops.NotEqual()), place(ops.Assign())

    def construct(self, row, gradient):
        found = self.cast(self.parameter, mstype.float32)
        rounded = self.cast(self.cast(self.weight, self.parameter.dtype), mstype.float32)
        master = self.select(self.not_equal(found, rounded), found, self.weight)
        gradient = self.complete(row, gradient, master)
        if self.decoupled:
            master = self.sub(master, self.mul(master, row[DECOUPLED_DECAY]))
        updated = self.adam(master, self.moment1, self.moment2, gradient, row)
        result = self.cast(self.unless_skipped(row, updated, found), self.parameter.dtype)
        self.assign(self.weight, self.unless_skipped(row, updated, self.weight))
        return self.write(result, row[DECOUPLED_DECAY])
