"""The writeback: how the new value of a parameter gets from the host to where the parameter is.

"in_place": the host operation writes the parameter itself, because the device is the CPU and shares its memory.
"assign": the host operation returns a tensor, and an operation on the device writes it.
"""

from mindspore import context, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import auto_generate
from mindspore.ops import functional as F

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

    A float32 parameter is decayed first, where the decay is decoupled: the host does not have the weight.

    Args:
        parameter (Parameter): What is written.
        place (Callable): Places an operation: on the host for "in_place", else where the parameter is.
        decay (bool): Whether the parameter has a decoupled decay.
    """

    def __init__(self, parameter, place, decay):
        super().__init__(auto_prefix=False)
        self.parameter = parameter
        self.is_scalar = not parameter.shape
        self.decay = decay and parameter.dtype == mstype.float32
        self.mul, self.subtract = place(ops.Mul()), place(ops.AssignSub())
        self.write = place(_write_operation(parameter.dtype))

    def construct(self, result, decay):
        """`decay` is the part of the weight that is taken off it."""
        if self.is_scalar:
            result = F.reshape(result, ())
        if self.decay:
            self.subtract(self.parameter, self.mul(self.parameter, decay))
        return F.depend(True, self.write(self.parameter, result))


def _write_operation(dtype):
    if dtype == mstype.float32:
        return ops.AssignAdd()
    if dtype == mstype.bfloat16 and context.get_context("device_target") == "CPU":
        return auto_generate.InplaceCopy()  # MindSpore has no Assign for bfloat16 on the CPU
    return ops.Assign()


def decayed(gradient, parameter, weight_decay, clip):
    """The gradient with its L2 penalty, as float32. Its operands are on the device, so it is computed there.

    The penalty is not clipped. `clip` is None where nothing is.
    """
    gradient = F.cast(gradient, mstype.float32)
    if clip is not None:
        gradient = gradient * clip
    return gradient + parameter * weight_decay
