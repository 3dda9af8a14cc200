# SPDX-License-Identifier: Apache-2.0

"""A training step in float16 with dynamic loss scaling."""

from mindspore import nn, ops

MAX_NORM = 1.0  # of all gradients together; larger norms are scaled down to it


class Float16Step(nn.Cell):
    """A step with a scaled loss. The optimizer unscales and clips the gradients, and skips a step if they overflow.

    Returns:
        The loss; the norm of the gradients, which is not finite if the step was skipped; the loss scale.
    """

    def __init__(self, loss, optimizer, scaler):
        super().__init__(auto_prefix=False)
        self.loss, self.optimizer, self.scaler = loss, optimizer, scaler
        self.backward = ops.value_and_grad(self.scaled_loss, None, optimizer.parameters)

    def scaled_loss(self, tokens, targets):
        return self.scaler.scale(self.loss(tokens, targets))

    def construct(self, tokens, targets):
        scale = self.scaler.scale_value * 1.0  # its value before it is adjusted
        loss, gradients = self.backward(tokens, targets)
        updated = self.optimizer(gradients)
        norm = ops.depend(self.optimizer.global_norm, updated)[0]
        self.scaler.adjust(ops.isfinite(norm))
        return loss / scale, norm, scale
