# SPDX-License-Identifier: Apache-2.0

"""The states that a step measures and counts: the norm, the number of steps and of skipped ones, the betas' powers."""

from mindspore import Tensor, float32, int32, nn

from mindspore_offload import host


class Counters(nn.Cell):
    """Advances the number of the step and the powers of the betas, on the host; in a skipped step `skipped_steps`.

    Args:
        global_step (Parameter): The number of steps, of shape (1,) and dtype int32.
        beta1_power, beta2_power (Parameter): The powers of the betas, of shape (1,).
        skipped_steps (Union[Parameter, None]): The number of skipped steps, as `global_step`. None: no step is skipped.
    """

    def __init__(self, global_step, beta1_power, beta2_power, skipped_steps):
        super().__init__(auto_prefix=False)
        self.global_step, self.beta1_power, self.beta2_power = global_step, beta1_power, beta2_power
        self.skipped_steps = skipped_steps
        self.one = Tensor([1], int32)

    def construct(self, powers, is_finite):
        """Stores the powers of this step. `is_finite` is read only if steps may be skipped."""
        one, (beta1_power, beta2_power) = self.one, powers
        if self.skipped_steps is not None:
            one = host.cast(is_finite, int32)
            host.assign_add(self.skipped_steps, host.sub(self.one, one))
            beta1_power = host.select(is_finite, beta1_power, self.beta1_power)
            beta2_power = host.select(is_finite, beta2_power, self.beta2_power)
        host.assign_add(self.global_step, one)
        host.assign(self.beta1_power, beta1_power)
        host.assign(self.beta2_power, beta2_power)
        return True


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
        self.gradient_scale = None if gradient_scale is None else Tensor([gradient_scale], float32)
        self.bound = None if max_grad_norm is None else Tensor([max_grad_norm], float32)
        self.one = Tensor([1.0], float32)

    def construct(self, gradients, loss_scale):
        """Returns the factor that `ops.clip_by_global_norm` would apply, and whether the norm is finite.

        Both have shape (1,). The factor is None without a bound. `loss_scale` has shape (1,) too, or is None if fixed.
        """
        gradient_scale = host.div(self.one, loss_scale) if self.gradient_scale is None else self.gradient_scale
        norm = host.mul(self.norm(gradients), gradient_scale)
        host.assign(self.global_norm, norm)
        clip = None if self.bound is None else host.div(self.bound, host.maximum(norm, self.bound))
        return clip, host.is_finite(norm)
