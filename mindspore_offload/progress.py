"""What a step advances: the number of the step and the powers of the betas, if it is taken."""

from mindspore import nn, ops

from mindspore_offload.placement import on_host


class Progress(nn.Cell):
    """Counts a step, on the host.

    Args:
        global_step, beta1_power, beta2_power (Parameter): The states that a step advances.
        skipped_steps (Union[Parameter, None]): Counts the steps that are not taken; None if all are.
    """

    def __init__(self, global_step, beta1_power, beta2_power, skipped_steps):
        super().__init__(auto_prefix=False)
        self.global_step, self.beta1_power, self.beta2_power = global_step, beta1_power, beta2_power
        self.skipped_steps = skipped_steps
        self.skip = skipped_steps is not None
        self.assign, self.add_to, self.select = on_host(ops.Assign()), on_host(ops.AssignAdd()), on_host(ops.Select())
        self.cast, self.sub = on_host(ops.Cast()), on_host(ops.Sub())

    def construct(self, one, beta1_power, beta2_power, taken):
        """`one` is added to the number of the step; the powers are those of this step; `taken` is read with `skip`."""
        if self.skip:
            step = self.cast(taken, one.dtype)
            self.add_to(self.skipped_steps, self.sub(one, step))
            beta1_power = self.select(taken, beta1_power, self.beta1_power)
            beta2_power = self.select(taken, beta2_power, self.beta2_power)
            one = step
        self.add_to(self.global_step, one)
        self.assign(self.beta1_power, beta1_power)
        self.assign(self.beta2_power, beta2_power)
        return True
