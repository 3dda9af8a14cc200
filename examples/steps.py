"""A step of training in float32, and one in float16 with dynamic loss scaling."""

import mindspore as ms
from mindspore import amp, nn, ops
from mindspore.ops import composite as C

MAX_NORM = 1.0  # of all gradients together; larger ones are scaled down to it

_sum_of_squares = C.MultitypeFuncGraph("sum_of_squares")
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
    """Gradients of a scaled loss, which are unscaled and clipped in float32, and skipped if they overflowed.

    Returns:
        The loss; the norm of the gradients, which is not finite if the step was skipped; the scale.
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
        norm = ops.addn(self.map(_sum_of_squares, gradients)) ** 0.5 / scale
        finite = ops.isfinite(norm)
        if finite:
            factor = MAX_NORM / ops.maximum(norm, MAX_NORM) / scale
            self.optimizer(self.map(ops.partial(_times, factor), gradients))
        self.scaler.adjust(finite)
        return loss / scale, norm, scale


@_sum_of_squares.register("Tensor")
def _sum_squares(gradient):
    return gradient.astype(ms.float32).square().sum()


@_times.register("Tensor", "Tensor")
def _multiply(factor, gradient):
    return gradient.astype(ms.float32) * factor
