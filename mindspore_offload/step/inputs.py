# SPDX-License-Identifier: Apache-2.0

"""Everything that the host may read in a step, and when: gradients, parameters, learning rates and the loss scale.

1. The host reads no Parameter that the device or the user writes, but a fresh copy that the device makes: else it
   would read the host twin, and miss writes. The CPU target has one memory, so nothing is copied there but gradients
   that are Parameters, as those of gradient accumulation, and these only where the native kernel does not see that
   another input is the same memory.
2. What the host writes is declared as written, and so are gradients, see `WRITTEN`.
3. A state is written before anything is read, see `Inputs.begin`.

docs_en/contributing.rst describes the quirks of MindSpore behind this: host twin, side effects, constant tuples.
"""

import contextlib

from mindspore import Parameter, Tensor, bfloat16, context, float32, int32, nn, ops

from mindspore_offload import host
from mindspore_offload.distributed.cut_and_gather import Cut
from mindspore_offload.formats import MOMENT_NAMES
from mindspore_offload.mindspore_private import hold, tensor_move

# The roles of an update's inputs that are declared as written. Gradients are only read. But MindSpore simplifies a
# product with ones to the other factor, so a gradient may be the memory of a parameter, which this or an earlier bucket
# writes. It leaves alone what is declared as written.
WRITTEN = (*MOMENT_NAMES, "gradient", "master")

# Copies a tensor where it is, bit by bit.
device_copy = tensor_move()


class Inputs(nn.Cell):
    """Makes the inputs of a step ready for the host.

    Args:
        slots (list[ParameterStates]): The parameters with their states.
        assigns (bool): True if the device writes the parameters.
        copies (bool): True if gradients that are Parameters are copied.
        loss_scale (Union[Parameter, None]): The loss scale, if it is a Parameter.
        global_step (Parameter): A state on the host.
    """

    def __init__(self, slots, assigns, copies, loss_scale, global_step):
        super().__init__(auto_prefix=False)
        is_sharded = any(each.piece is not None for each in slots)
        self.cuts = nn.CellList([Cut(each.piece) for each in slots], auto_prefix=False) if is_sharded else None
        self.zero = Tensor([0], int32)
        hold(self, assigns=assigns, copies=copies, dynamic_loss_scale=loss_scale, global_step=global_step)

    def begin(self, gradients):
        """Returns the gradients, without Parameters in them where these are copied.

        Then it writes to a state, the first write on the host: what is read before it would get a host twin.
        """
        if self.copies:
            gradients = host.map_(_apart_from_parameters, gradients)
        if self.assigns:
            host.assign_add(self.global_step, self.zero)
        return gradients

    def has_parameters(self, gradients):
        """Returns True if a gradient still is a Parameter."""
        return not self.copies and True in host.map_(_is_parameter, gradients)

    def pieces(self, gradients):
        """Returns of each gradient what this rank needs."""
        return gradients if self.cuts is None else host.map_(host.call1, self.cuts, gradients)

    def loss_scale(self):
        """Returns the loss scale, of shape (1,); None if it is fixed."""
        if self.dynamic_loss_scale is None:
            return None
        return host.reshape(device_copy(self.dynamic_loss_scale), (1,))

    def rates(self, learning_rates):
        """Returns the learning rates, of which each may be a Parameter."""
        return host.map_(_fresh_rate, learning_rates) if self.assigns else learning_rates


class FreshValue(nn.Cell):
    """Copies a parameter, or this rank's piece of it, on the device, for the host to read."""

    def __init__(self, parameter, piece=None):
        super().__init__(auto_prefix=False)
        self.parameter, self.cut, self.is_piece = parameter, Cut(piece), piece is not None
        # MindSpore has no TensorMove for bfloat16 on the CPU, where host and device share the parameter's memory.
        self.copies = parameter.dtype != bfloat16 or context.get_context("device_target") != "CPU"

    def construct(self):
        if self.is_piece:
            return self.cut(self.parameter)
        return device_copy(self.parameter) if self.copies else self.parameter


def with_own_memory(gradient):
    """Copies a view. MindSpore refuses it where an operation may write, and gradients are declared so."""
    if not isinstance(gradient, Tensor) or isinstance(gradient, Parameter):
        return gradient
    is_part = not gradient.is_contiguous() or gradient.storage_offset() > 0
    with contextlib.suppress(RuntimeError):  # MindSpore 2.7 does not know the storage on the CPU
        is_part = is_part or gradient.untyped_storage().nbytes() > gradient.nbytes
    return gradient.copy() if is_part else gradient


def _is_parameter(gradient):
    return isinstance(gradient, Parameter)


def _apart_from_parameters(gradient):
    """Copies a gradient that is a Parameter: an update may write it before another one has read it."""
    if not isinstance(gradient, Parameter):
        return gradient
    is_float32 = ops.dtype(gradient) == float32
    return device_copy(gradient) if is_float32 else ops.cast(gradient, float32)


def _fresh_rate(rate):
    return device_copy(rate) if isinstance(rate, Tensor) else rate
