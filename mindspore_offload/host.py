# SPDX-License-Identifier: Apache-2.0

"""MindSpore's operations placed on the host, whatever the device is.

In a ``construct``, ``host.mul(x, y)`` runs on the host where ``x * y`` would run on the device.
"""

from mindspore import ops
from mindspore.ops import composite as C


def place(operation):
    """Places an operation on the host."""
    return operation.set_device("CPU")


sub, mul, div, sqrt, square = (
    place(ops.Sub()),
    place(ops.Mul()),
    place(ops.Div()),
    place(ops.Sqrt()),
    place(ops.Square()),
)
maximum, is_finite, select = place(ops.Maximum()), place(ops.IsFinite()), place(ops.Select())
cast, reshape, stack, unstack = place(ops.Cast()), place(ops.Reshape()), place(ops.Stack()), place(ops.Unstack())
concat, concat_columns = place(ops.Concat()), place(ops.Concat(1))
reduce_sum, add_n = place(ops.ReduceSum()), place(ops.AddN())
assign, assign_add = place(ops.Assign()), place(ops.AssignAdd())

# Maps a function over tuples, with `F.partial` for what is the same in every turn: see constant tuples in
# docs_en/contributing.rst.
map_ = C.Map()


def call(cell, *inputs):
    """Calls a Cell, in a map over Cells."""
    return cell(*inputs)


def pick(values, i):
    """Returns an element of a tuple, in a map over indices."""
    return values[i]
