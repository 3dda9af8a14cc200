# SPDX-License-Identifier: Apache-2.0

"""The states that count: the number of steps, of skipped ones, and the powers of the betas."""

from mindspore import Tensor, nn
from mindspore import dtype as mstype

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
        self.one = Tensor([1], mstype.int32)

    def construct(self, powers, is_finite):
        """Stores the powers of this step. `is_finite` is read only if steps may be skipped."""
        one, (beta1_power, beta2_power) = self.one, powers
        if self.skipped_steps is not None:
            one = host.cast(is_finite, mstype.int32)
            host.assign_add(self.skipped_steps, host.sub(self.one, one))
            beta1_power = host.select(is_finite, beta1_power, self.beta1_power)
            beta2_power = host.select(is_finite, beta2_power, self.beta2_power)
        host.assign_add(self.global_step, one)
        host.assign(self.beta1_power, beta1_power)
        host.assign(self.beta2_power, beta2_power)
        return True
