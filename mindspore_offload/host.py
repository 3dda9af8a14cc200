# SPDX-License-Identifier: Apache-2.0

"""Operations placed on the host, whatever the device is: MindSpore's, and those of the native library.

In a ``construct``, ``host.mul(x, y)`` runs on the host where ``x * y`` would run on the device.
"""

from mindspore import ops

from mindspore_offload import native_library
from mindspore_offload.mindspore_private import declare_inputs


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


# These call a Cell with so many inputs, in a map over Cells. With `*inputs`, MindSpore compiles a step a tenth longer.
def call0(cell):
    return cell()


def call1(cell, x):
    return cell(x)


def call2(cell, x, y):
    return cell(x, y)


def pick(values, i):
    """Returns an element of a tuple, in a map over indices."""
    return values[i]


class NativeOperation(ops.Custom):
    """A function of the native library as an operation on the host.

    Args:
        function (str): The function's name.
        shapes, dtypes: Those of the output, or tuples of them for several outputs. `shapes` may be a function of the
            shapes of the inputs.
        inputs (Optional[dict[str, int]]): The roles of the inputs, in their order, and the number of tensors of each.
            Given if some are written.
        written (tuple[str]): The roles of the inputs that are written.
    """

    # On Ascend, "aot" means an Ascend C operator. Ours always runs on the host, so this stays False.
    is_ascend_c = property(lambda self: False, lambda self, value: None)

    def __init__(self, function, shapes, dtypes, inputs=None, written=()):
        infer_shapes = shapes if callable(shapes) else lambda *_: shapes
        super().__init__(f"{native_library.PATH}:{function}", infer_shapes, lambda *_: dtypes, "aot")
        # The path itself would stay in MindSpore's compile cache when the package moves.
        self.add_prim_attr("path_from_env", True)
        for attribute in ("func_name", "uniq_name"):
            self.add_prim_attr(attribute, f"{native_library.path_variable()}:{function}")
        if isinstance(dtypes, tuple):
            self.add_prim_attr("multi_output", True)
        if inputs:
            names = [(f"{role}_{i}", role in written) for role, count in inputs.items() for i in range(count)]
            declare_inputs(self, names)
            self.add_prim_attr("side_effect_mem", True)
        place(self)
