"""The writeback: how the new value of a parameter gets from the host to where the parameter is.

"in_place": the host operation writes the parameter itself, because the device is the CPU and shares its memory.
"assign": the host operation returns a tensor, and an operation on the device writes it.
"""

from mindspore import context, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import auto_generate
from mindspore.ops import functional as F

from mindspore_offload.placement import on_host

WRITEBACKS = ("auto", "in_place", "assign")


def choose(writeback, cls_name):
    """ "in_place" or "assign": what `writeback` ("auto", "in_place" or "assign") is on this device target."""
    if writeback not in WRITEBACKS:
        raise ValueError(
            f"For '{cls_name}', the argument 'writeback' must be one of {list(WRITEBACKS)}, but got {writeback!r}."
        )
    device_target = context.get_context("device_target")
    if writeback == "auto":
        return "in_place" if device_target == "CPU" else "assign"
    if writeback == "in_place" and device_target != "CPU":
        raise ValueError(
            f"For '{cls_name}', the argument 'writeback' can be 'in_place' only where the device target is 'CPU', "
            f"but it is '{device_target}'; use 'auto' or 'assign'."
        )
    return writeback


class Write(nn.Cell):
    """Writes what the host returned for a parameter: adds it to a float32 one, puts it in the place of another.

    It runs on the device for "assign", and on the host for "in_place".
    """

    def __init__(self, parameter, writeback):
        super().__init__(auto_prefix=False)
        self.parameter = parameter
        self.is_scalar = not parameter.shape
        operation = _write_operation(parameter.dtype)
        self.write = on_host(operation) if writeback == "in_place" else operation

    def construct(self, result):
        if self.is_scalar:
            result = F.reshape(result, ())
        return F.depend(True, self.write(self.parameter, result))


def _write_operation(dtype):
    if dtype == mstype.float32:
        return ops.AssignAdd()
    if dtype == mstype.bfloat16 and context.get_context("device_target") == "CPU":
        return auto_generate.InplaceCopy()  # MindSpore has no Assign for bfloat16 on the CPU
    return ops.Assign()


def decayed(gradient, parameter, weight_decay):
    """The gradient with its L2 penalty, as float32. Its operands are on the device, so it is computed there."""
    return F.cast(gradient, mstype.float32) + parameter * weight_decay
