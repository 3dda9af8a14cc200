# SPDX-License-Identifier: Apache-2.0

"""Updates one parameter with MindSpore's Adam operation: prepares the gradient, keeps the master, writes the result."""

from mindspore import Tensor, float32, nn, ops

from mindspore_offload.mindspore_private import declare_input, tensor_move
from mindspore_offload.step.coefficients import BETA1, BETA2, EPS, GRADIENT_SCALE, LEARNING_RATE, SKIP
from mindspore_offload.step.inputs import FreshValue
from mindspore_offload.update.decay import ClipAndDecay, decay_decoupled
from mindspore_offload.update.writeback import Write, on_device


def parameter_update(slot, features, place, writeback):
    """Returns the Cell that updates one parameter. It is called with a row of coefficients and the gradient.

    Args:
        slot (ParameterStates): The parameter with its states.
        features (Features): The parts of the algorithm.
        place (Callable): Places the operations at the states: `host.place` or `on_device`.
        writeback (str): "in_place" where the parameter is at the same place as its states, else "assign".
    """
    if slot.master is not None:
        return _UpdateMaster(slot, features, place, writeback)
    if writeback == "in_place":
        return _UpdateInPlace(slot, features, place)
    return _UpdateByDifference(slot, features, place)


class _Update(nn.Cell):
    """Runs MindSpore's operation Adam, which writes a float32 weight and its moments where they are.

    Args:
        slot, features, place: Those of `parameter_update`.
        prepare_place (Callable): Places the operations that clip and decay the gradient.
        declares_write (bool): True if MindSpore is to know that Adam writes the weight. It must for differences: equal
            zeros would otherwise share one buffer. It must not for a master: MindSpore would copy it first, on the
            device, to protect other readers, but those have run before.
    """

    def __init__(self, slot, features, place, prepare_place, declares_write):
        super().__init__(auto_prefix=False)
        self.parameter, self.weight = slot.parameter, slot.weight
        self.moment1, self.moment2 = slot.moment1, slot.moment2
        self.features = features
        self.decouples = slot.has_decay and features.decoupled
        self.clip_and_decay = ClipAndDecay(features.clip, slot.has_decay and not features.decoupled, prepare_place)
        self.cast, self.mul = place(ops.Cast()), place(ops.Mul())
        self.sub, self.assign_sub = place(ops.Sub()), place(ops.AssignSub())
        self.greater, self.select, self.zero = place(ops.Greater()), place(ops.Select()), Tensor(0.0, float32)
        self.copy, self.assign = place(tensor_move()), place(ops.Assign())
        adam = ops.Adam(features.use_locking, features.nesterov)
        if not declares_write:
            declare_input(adam, 0, "var", is_written=False)
        # Declared as written, a gradient is never the memory of a parameter: see `WRITTEN` in step/inputs.py.
        declare_input(adam, -1, "gradient", is_written=True)
        self.adam = place(adam)

    def unless_skipped(self, row, value, otherwise):
        """Returns `value`, or `otherwise` if the step is skipped."""
        if self.features.skip:
            value = self.select(self.greater(row[SKIP], 0), otherwise, value)
        return value

    def prepared(self, row, gradient, weight):
        """Returns the gradient for the moments: clipped, decayed and unscaled."""
        gradient = self.clip_and_decay(row, gradient, weight)
        if self.features.unscale:
            gradient = self.mul(gradient, row[GRADIENT_SCALE])
        return gradient

    def updated(self, row, weight, gradient):
        """Returns `weight` after Adam has written it, and updates the moments.

        If steps may be skipped, Adam writes copies of the moments: after a skipped step, these keep their bits. Adam
        would correct the bias itself, by the powers of the betas, but the learning rate that it gets is corrected
        already.
        """
        moment1, moment2 = self.moment1, self.moment2
        if self.features.skip:
            moment1, moment2 = self.copy(moment1), self.copy(moment2)
        rate, beta1, beta2, eps = row[LEARNING_RATE], row[BETA1], row[BETA2], row[EPS]
        launched = self.adam(weight, moment1, moment2, self.zero, self.zero, rate, beta1, beta2, eps, gradient)
        if self.features.skip:
            self.assign(self.moment1, self.unless_skipped(row, ops.depend(moment1, launched), self.moment1))
            self.assign(self.moment2, self.unless_skipped(row, ops.depend(moment2, launched), self.moment2))
        return ops.depend(weight, launched)


class _UpdateInPlace(_Update):
    """Updates a float32 parameter at the same place as its states: Adam writes it."""

    def __init__(self, slot, features, place):
        super().__init__(slot, features, place, place, declares_write=True)

    def construct(self, row, gradient):
        gradient = self.prepared(row, gradient, self.parameter)
        if self.features.skip:
            weight = self.copy(self.parameter)
            if self.decouples:
                weight = decay_decoupled(row, weight, self.mul, self.sub)
            updated = self.updated(row, weight, gradient)
            return self.assign(self.parameter, self.unless_skipped(row, updated, self.parameter))
        if self.decouples:
            decay_decoupled(row, self.parameter, self.mul, self.assign_sub)
        return self.updated(row, self.parameter, gradient)


class _UpdateByDifference(_Update):
    """Updates a float32 parameter on another device than its states.

    Adam computes the difference there, and `write` adds it here.
    """

    def __init__(self, slot, features, place):
        has_penalty = slot.has_decay and not features.decoupled
        super().__init__(slot, features, place, on_device if has_penalty else place, declares_write=True)
        self.write = Write(slot.parameter, on_device, self.decouples, features.skip)

    def construct(self, row, gradient):
        gradient = self.prepared(row, gradient, self.parameter)
        # Adam on a weight of zero yields the difference. The zeros are computed, not constant, because Adam overwrites
        # them.
        zeros = self.mul(gradient, self.zero)
        return self.write(self.updated(row, zeros, gradient), row)


class _UpdateMaster(_Update):
    """Updates a 16-bit parameter: Adam updates the master, and the parameter becomes the master rounded.

    A parameter that is not its master rounded was changed outside the optimizer, and becomes the master first.
    """

    def __init__(self, slot, features, place, writeback):
        super().__init__(slot, features, place, place, declares_write=False)
        self.fresh_value = FreshValue(slot.parameter) if writeback == "assign" else None
        write_place = place if writeback == "in_place" else on_device
        self.write = Write(slot.parameter, write_place, has_decoupled_decay=False, may_skip=features.skip)
        self.not_equal = place(ops.NotEqual())

    def construct(self, row, gradient):
        parameter = self.parameter if self.fresh_value is None else self.fresh_value()
        found = self.cast(parameter, float32)
        rounded = self.cast(self.cast(self.weight, self.parameter.dtype), float32)
        master = self.select(self.not_equal(found, rounded), found, self.weight)
        gradient = self.prepared(row, gradient, master)
        if self.decouples:
            master = decay_decoupled(row, master, self.mul, self.sub)
        updated = self.updated(row, master, gradient)
        result = self.cast(self.unless_skipped(row, updated, found), self.parameter.dtype)
        self.assign(self.weight, self.unless_skipped(row, updated, self.weight))
        return self.write(result, row)
