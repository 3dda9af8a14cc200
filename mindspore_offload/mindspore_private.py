# SPDX-License-Identifier: Apache-2.0

"""Every name of MindSpore that is not in its documentation. All were seen in 2.7.0 and in 2.10.0, but where noted.

A release that renames one breaks this file and no other. The attributes that `nn.Optimizer` sets for its subclasses,
such as `is_group` and `dynamic_lr`, are used where they are.
"""

from mindspore import ops
from mindspore.communication import GlobalComm
from mindspore.ops import auto_generate
from mindspore.ops import signature as sig
from mindspore.train.mind_ir_pb2 import ModelProto as ModelProto
from mindspore.train.mind_ir_pb2 import NodeProto as NodeProto
from mindspore.train.mind_ir_pb2 import TensorProto as TensorProto

try:
    from mindspore.graph.api import _cell_graph_executor
except ImportError:  # before 2.9
    from mindspore.common.api import _cell_graph_executor


def is_communicating():
    """Returns True after `mindspore.communication.init`."""
    return GlobalComm.INITED


def compile_and_run(cell, *inputs):
    """Compiles a Cell as a graph of its own, in any mode, and runs it."""
    return cell.compile_and_run(*inputs)


def compiled_graph(cell, *inputs):
    """Compiles a Cell, and returns its graph as the protocol buffer `ModelProto`."""
    cell.compile(*inputs)
    phase, _ = _cell_graph_executor.compile(cell, *inputs, phase="train")
    return ModelProto.FromString(_cell_graph_executor._graph_executor.get_func_graph_proto(phase, "mind_ir", False))


def has_hooks(cell):
    """Returns True if somebody registered a forward hook."""
    return bool(cell._forward_pre_hook or cell._forward_hook)


def hold(cell, **parts):
    """Makes parts attributes of a Cell as they are.

    By setattr, the Cell would look for parameters of these names first, make Cells its children, and make the elements
    of a ParameterTuple attributes by their own names, which may be any.
    """
    cell.__dict__.update(parts)


def own_parameters(cell):
    """Returns the parameters that are attributes of a Cell, by name. It may be changed."""
    return cell._params


def own_cells(cell):
    """Returns the Cells that are attributes of a Cell, by name."""
    return cell._cells


def clone_info(state, parameter):
    """Makes a state a clone of a parameter: it has the parameter's settings, and the parameter lists it."""
    info, name = parameter.param_info.clone(), state.name
    info.obj = state
    state.param_info = info
    state.name = name
    state.requires_aggr = parameter.requires_aggr
    parameter.param_info.cloned_obj = [*clones_of(parameter), state]


def clones_of(parameter):
    """Returns the clones that a parameter lists."""
    return getattr(parameter.param_info, "cloned_obj", [])


def forget_clones(parameters, clones):
    """Removes clones from the lists of their parameters, which would keep their memory as long as the net lives."""
    forgotten = {id(clone) for clone in clones}
    for parameter in parameters:
        parameter.param_info.cloned_obj = [clone for clone in clones_of(parameter) if id(clone) not in forgotten]


def tensor_move():
    """Returns the operation that copies a tensor where it is, bit by bit."""
    return ops.Primitive("TensorMove")


def in_place_copy():
    """Returns the operation that copies a tensor into a parameter of any dtype."""
    return auto_generate.InplaceCopy()


def declare_inputs(operation, inputs):
    """Declares the names of an operation's inputs, and which it writes: pairs of a name and a bool."""
    operation.set_signatures(tuple(_signature(name, is_written) for name, is_written in inputs))


def declare_input(operation, index, name, is_written):
    """Declares anew one input of an operation of MindSpore, which has the dtype of the others."""
    signatures = list(operation.__mindspore_signature__)
    signatures[index] = _signature(name, is_written, dtype=sig.sig_dtype.T)
    operation.set_signatures(tuple(signatures))


def _signature(name, is_written, **dtype):
    return sig.make_sig(name, sig.sig_rw.RW_WRITE if is_written else sig.sig_rw.RW_READ, **dtype)
