# SPDX-License-Identifier: Apache-2.0

"""Both decays with MindSpore's operations: where the native kernel does not see the weight, and for stock."""

from mindspore import float32, nn, ops

from mindspore_offload.step.coefficients import CLIP, DECOUPLED_DECAY, WEIGHT_DECAY


class ClipAndDecay(nn.Cell):
    """Casts a gradient to float32, clips it and adds the L2 penalty, in this order, which is that of csrc/adam.h.

    Args:
        clip (bool): True if gradients are clipped.
        has_penalty (bool): True if the parameter has an L2 penalty.
        place (Callable): `host.place` or `on_device`.
    """

    def __init__(self, clip, has_penalty, place):
        super().__init__(auto_prefix=False)
        self.clip, self.has_penalty = clip, has_penalty
        self.cast, self.mul, self.add = place(ops.Cast()), place(ops.Mul()), place(ops.Add())

    def construct(self, row, gradient, weight):
        """`row` is the parameter's row of coefficients, `weight` the float32 weight."""
        gradient = self.cast(gradient, float32)
        if self.clip:
            gradient = self.mul(gradient, row[CLIP])
        if self.has_penalty:
            gradient = self.add(gradient, self.mul(weight, row[WEIGHT_DECAY]))
        return gradient


def decay_decoupled(row, weight, mul, sub):
    """Subtracts the decoupled decay from a float32 weight. `sub` returns the result, or writes it to a Parameter."""
    return sub(weight, mul(weight, row[DECOUPLED_DECAY]))
