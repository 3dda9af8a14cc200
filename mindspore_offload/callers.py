# SPDX-License-Identifier: Apache-2.0

"""Finds the callers of a function: the line of the user's program, and the cell whose step runs."""

import sys
import traceback
import warnings

from mindspore import nn


def warn(message, category=UserWarning):
    """Warns, and names the user's line, however many of ours lie between. In MindSpore's threads there may be none."""
    frames = [frame for frame, _ in traceback.walk_stack(sys._getframe())]
    is_ours = [frame.f_globals.get("__name__", "").startswith("mindspore_offload.") for frame in frames]
    warnings.warn(message, category, stacklevel=(*is_ours, False).index(False) + 1)


def training_cell():
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
