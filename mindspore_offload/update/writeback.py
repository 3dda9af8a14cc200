# SPDX-License-Identifier: Apache-2.0

"""The writeback: how the new value of a parameter gets from the host to the parameter.

"in_place": the host operation writes the parameter itself. The device is the CPU, so they share its memory.
"assign": the host operation returns a tensor, and an operation on the device writes it.
"""

from mindspore import bfloat16, context, float32, nn, ops

from mindspore_offload.errors import refuse
from mindspore_offload.mindspore_private import in_place_copy
from mindspore_offload.step.coefficients import SKIP
from mindspore_offload.update.decay import decay_decoupled


def choose(writeback, cls_name):
    """Returns "in_place" or "assign" for `writeback` ("auto", "in_place" or "assign") on this device target."""
    device_target = context.get_context("device_target")
    if writeback == "auto":
        return "in_place" if device_target == "CPU" else "assign"
    if writeback == "in_place" and device_target != "CPU":
        must = f"be 'auto' or 'assign' where the device target is '{device_target}', not 'CPU'"
        refuse(ValueError, cls_name, "argument 'writeback'", must, repr(writeback))
    return writeback


def on_device(operation):
    """Leaves an operation at its default place, the device. The counterpart of `host.place`."""
    return operation


class Write(nn.Cell):
    """Writes a host operation's result: adds it to a float32 parameter, assigns it to a 16-bit one.

    Args:
        parameter (Parameter): The parameter.
        place (Callable): `host.place` or `on_device`.
        has_decoupled_decay (bool): True if a decoupled decay is taken off a float32 parameter first. The host does not
            see that parameter. It decays masters itself.
        may_skip (bool): True if steps may be skipped. A float32 parameter is then assigned and not added to, because
            adding loses some bits of a parameter, those of subnormal numbers, even if it adds -0.
    """

    def __init__(self, parameter, place, has_decoupled_decay, may_skip):
        super().__init__(auto_prefix=False)
        self.parameter = parameter
        self.is_scalar = not parameter.shape
        is_difference = parameter.dtype == float32
        self.decays, self.selects = has_decoupled_decay and is_difference, may_skip and is_difference
        self.mul, self.sub, self.assign_sub = place(ops.Mul()), place(ops.Sub()), place(ops.AssignSub())
        self.add, self.assign = place(ops.Add()), place(ops.Assign())
        self.greater, self.select = place(ops.Greater()), place(ops.Select())
        self.write = place(_write_operation(parameter.dtype))

    def construct(self, result, row):
        """`row` is the parameter's row of coefficients. It may be None if nothing decays and no step is skipped."""
        if self.is_scalar:
            # By way of float32, which is exact: on the CPU, MindSpore has no Reshape for bfloat16.
            result = ops.cast(ops.reshape(ops.cast(result, float32), ()), self.parameter.dtype)
        if self.selects:
            weight = self.parameter
            if self.decays:
                weight = decay_decoupled(row, weight, self.mul, self.sub)
            weight = self.select(self.greater(row[SKIP], 0), self.parameter, self.add(weight, result))
            return ops.depend(True, self.assign(self.parameter, weight))
        if self.decays:
            decay_decoupled(row, self.parameter, self.mul, self.assign_sub)
        return ops.depend(True, self.write(self.parameter, result))


def _write_operation(dtype):
    if dtype == float32:
        return ops.AssignAdd()
    if dtype == bfloat16 and context.get_context("device_target") == "CPU":
        return in_place_copy()  # MindSpore has no Assign for bfloat16 on the CPU
    return ops.Assign()
