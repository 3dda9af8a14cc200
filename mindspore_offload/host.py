# SPDX-License-Identifier: Apache-2.0

"""MindSpore's operations placed on the host, whatever the device is.

In a ``construct``, ``host.mul(x, y)`` runs on the host where ``x * y`` would run on the device.
"""

from mindspore import ops


def place(operation):
    """Places an operation on the host."""
    return operation.set_device("CPU")


sub, mul, div, sqrt, square = map(place, (ops.Sub(), ops.Mul(), ops.Div(), ops.Sqrt(), ops.Square()))
maximum, is_finite, select = map(place, (ops.Maximum(), ops.IsFinite(), ops.Select()))
cast, reshape, stack, unstack = map(place, (ops.Cast(), ops.Reshape(), ops.Stack(), ops.Unstack()))
concat, concat_columns, reduce_sum, add_n = map(place, (ops.Concat(), ops.Concat(1), ops.ReduceSum(), ops.AddN()))
assign, assign_add = map(place, (ops.Assign(), ops.AssignAdd()))

# Maps a function over tuples, with `ops.partial` for what is the same in every turn: see constant tuples in
# docs_en/contributing.rst.
map_ = ops.Map()


def call(cell, *inputs):
    """Calls a Cell, in a map over Cells."""
    return cell(*inputs)


def pick(values, i):
    """Returns an element of a tuple, in a map over indices."""
    return values[i]
