# SPDX-License-Identifier: Apache-2.0

"""Compares the parameters of an optimizer with those of its net: frozen ones, and ones that have been replaced."""

import sys
import traceback

from mindspore import ParameterTuple, nn

from mindspore_offload.errors import refuse, warn
from mindspore_offload.mindspore_private import own_parameters


def check_frozen(cls_name, parameters, has_decay):
    """Refuses frozen parameters that would decay, and warns of others, which would get gradients.

    MindSpore differentiates by the parameters that a training cell lists, whatever their `requires_grad` is.
    """
    frozen = [(each.name, decays) for each, decays in zip(parameters, has_decay) if not each.requires_grad]
    for name, decays in frozen:
        if decays:
            must = "not be frozen (requires_grad is False) if it has a weight decay, which would change it in each step"
            refuse(
                ValueError, cls_name, f"parameter '{name}'", must, cure="leave it out, as net.trainable_params() does"
            )
    if frozen:
        warn(
            f"For '{cls_name}', {len(frozen)} of the parameters are frozen (requires_grad is False), such as "
            f"'{frozen[0][0]}', but each step updates them by whatever gradients it gets; leave them out, as "
            f"net.trainable_params() does."
        )


def check_replaced(cls_name, parameters):
    """Refuses a parameter that is not in the net of the running training cell, if another one of its name is there.

    MindSpore may already have put a prefix before the other one's name, because names must be unique.
    """
    cell = _training_cell()
    if cell is None:
        return
    of_net, own = {id(each): each for each in _attributes(cell)}, {id(each) for each in parameters}
    others = [f".{each.name}" for each in of_net.values() if each.requires_grad and id(each) not in own]
    for parameter in parameters:
        if id(parameter) not in of_net and any(other.endswith(f".{parameter.name}") for other in others):
            must = "be that of the net, but the net has another Parameter of this name, which would not be trained"
            cure = "make the optimizer after the last change of the net's parameters"
            refuse(ValueError, cls_name, f"parameter '{parameter.name}'", must, cure=cure)


def _training_cell():
    """Returns the innermost cell that is being compiled or run and is no optimizer or its step; None without one.

    It reads the local variables of MindSpore's functions only. Until a function ends, Python keeps the values that were
    read: in the user's functions, those of variables that have been deleted since.
    """
    for frame, _ in traceback.walk_stack(sys._getframe()):
        if frame.f_globals.get("__name__") == nn.Cell.__module__:
            cell = frame.f_locals.get("self")
            is_ours = type(cell).__module__.startswith("mindspore_offload.")
            if isinstance(cell, nn.Cell) and not isinstance(cell, nn.Optimizer) and not is_ours:
                return cell
    return None


def _attributes(cell):
    """Yields the parameters that are attributes of a cell or of the cells in it, except in optimizers.

    The elements of a ParameterTuple are left out: a training cell lists in one what it trains.
    """
    if isinstance(cell, nn.Optimizer):
        return
    listed = {id(each) for value in vars(cell).values() if isinstance(value, ParameterTuple) for each in value}
    yield from (each for each in own_parameters(cell).values() if each is not None and id(each) not in listed)
    for child in cell.cells():
        yield from _attributes(child)
