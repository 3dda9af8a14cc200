"""A step of training in float32, and one in float16 with dynamic loss scaling."""

import mindspore as ms
from mindspore import amp, nn, ops
from mindspore.ops import composite as C

MAX_NORM = 1.0  # of all gradients together; larger ones are scaled down to it

_times = C.MultitypeFuncGraph("times")


class Float32Step(nn.Cell):
    """The usual step: loss, gradients, clipping, optimizer."""

    def __init__(self, loss, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.backward = ops.value_and_grad(loss, None, optimizer.parameters)

    def construct(self, tokens, targets):
        loss, gradients = self.backward(tokens, targets)
        self.optimizer(ops.clip_by_global_norm(gradients, MAX_NORM))
        return loss


class Float16Step(nn.Cell):
    """Gradients of a scaled loss, for an optimizer that clips them and leaves out the step if one has overflowed.

    Returns:
        The loss; the norm of the gradients, which is not finite if the step was left out; the scale.
    """

    def __init__(self, loss, optimizer, first_scale):
        super().__init__(auto_prefix=False)
        self.loss, self.optimizer = loss, optimizer
        self.scaler = amp.DynamicLossScaler(first_scale, scale_factor=2, scale_window=200)
        self.backward = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters)
        self.map = ops.HyperMap()

    def scaled_loss(self, tokens, targets):
        return self.scaler.scale(self.loss(tokens, targets))

    def construct(self, tokens, targets):
        scale = self.scaler.scale_value * 1.0  # as it is before it is adjusted
        loss, gradients = self.backward(tokens, targets)
        # In float32: unscaled, many would be too small for float16.
        updated = self.optimizer(self.map(ops.partial(_times, 1 / scale), gradients))
        norm = ops.depend(self.optimizer.global_norm, updated)[0]
        self.scaler.adjust(ops.isfinite(norm))
        return loss / scale, norm, scale


@_times.register("Tensor", "Tensor")
def _times_float32(factor, gradient):
    return gradient.astype(ms.float32) * factor
