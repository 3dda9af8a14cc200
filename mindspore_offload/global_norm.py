"""The global norm of the gradients, and what follows from it: how far they are clipped, and whether a step is taken."""

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_offload.placement import on_host


class GlobalNorm(nn.Cell):
    """Measures the gradients of a step, on the host.

    Args:
        norm (Cell): Gives the norm of a tuple of gradients as a float32 tensor of shape (1,).
        max_grad_norm (Union[float, None]): The bound of the norm; None for no bound.
        gradient_scale (float): 1 / loss_scale, where that is fixed.
        dynamic_scale (bool): Whether it is not.
        state (Parameter): Gets the norm, unscaled.
    """

    def __init__(self, norm, max_grad_norm, gradient_scale, dynamic_scale, state):
        super().__init__(auto_prefix=False)
        self.norm, self.state, self.dynamic_scale = norm, state, dynamic_scale
        self.gradient_scale = Tensor([gradient_scale], mstype.float32)
        self.bound = Tensor([float("inf") if max_grad_norm is None else max_grad_norm], mstype.float32)
        self.clip = max_grad_norm is not None
        self.one = Tensor([1.0], mstype.float32)
        self.mul, self.div, self.maximum = on_host(ops.Mul()), on_host(ops.Div()), on_host(ops.Maximum())
        self.is_finite, self.assign = on_host(ops.IsFinite()), on_host(ops.Assign())

    def construct(self, gradients, scale):
        """The factor of `ops.clip_by_global_norm`, and whether the norm is finite; both of shape (1,)."""
        gradient_scale = self.div(self.one, scale) if self.dynamic_scale else self.gradient_scale
        norm = self.mul(self.norm(gradients), gradient_scale)
        self.assign(self.state, norm)
        clip = self.div(self.bound, self.maximum(norm, self.bound)) if self.clip else self.one
        return clip, self.is_finite(norm)
