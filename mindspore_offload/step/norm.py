# SPDX-License-Identifier: Apache-2.0

"""The global norm of a step's gradients."""

from mindspore import Tensor, nn
from mindspore import dtype as mstype

from mindspore_offload import host


class GlobalNorm(nn.Cell):
    """Measures the global norm of a step's gradients, on the host.

    Args:
        norm (Cell): Returns the norm of a tuple of gradients, float32 of shape (1,).
        max_grad_norm (Union[float, None]): The bound of the norm. None: no bound.
        gradient_scale (Union[float, None]): 1 / loss_scale. None if the loss scale is a Parameter.
        global_norm (Parameter): The state that stores the norm of the unscaled gradients, of shape (1,).
    """

    def __init__(self, norm, max_grad_norm, gradient_scale, global_norm):
        super().__init__(auto_prefix=False)
        self.norm, self.global_norm = norm, global_norm
        self.gradient_scale = None if gradient_scale is None else Tensor([gradient_scale], mstype.float32)
        self.bound = None if max_grad_norm is None else Tensor([max_grad_norm], mstype.float32)
        self.one = Tensor([1.0], mstype.float32)

    def construct(self, gradients, loss_scale):
        """Returns the factor that `ops.clip_by_global_norm` would apply, and whether the norm is finite.

        Both have shape (1,). The factor is None without a bound. `loss_scale` has shape (1,) too, or is None if fixed.
        """
        gradient_scale = host.div(self.one, loss_scale) if self.gradient_scale is None else self.gradient_scale
        norm = host.mul(self.norm(gradients), gradient_scale)
        host.assign(self.global_norm, norm)
        clip = None if self.bound is None else host.div(self.bound, host.maximum(norm, self.bound))
        return clip, host.is_finite(norm)
