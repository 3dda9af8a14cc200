# SPDX-License-Identifier: Apache-2.0

"""Reports where the operations and the states of a step are, from the compiled graph."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mindspore import Tensor, nn

from mindspore_offload.errors import refuse
from mindspore_offload.mindspore_private import ModelProto, NodeProto, TensorProto, compiled_graph

_OPTIMIZER = "/optimizer-"  # in the scope of its operations

# Operations that run nowhere, because they only pass on values, and which of their inputs these are.
_ALL, _FIRST, _NONE = slice(None), slice(1), slice(0)
_PASSED_ON = {"Constant": _NONE, "UpdateState": _NONE, "Load": _FIRST, "Depend": _FIRST, "MakeTuple": _ALL}
_PASSED_ON["Switch"] = slice(1, None)  # of both branches

# The bytes of an element.
_BYTES = {
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8), 1),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16), 2),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32), 4),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64), 8),
}


class Operation(NamedTuple):
    """An operation of the optimizer step, and where the compiled graph places it: "host" or "device"."""

    name: str
    place: str


@dataclass(frozen=True)
class PlacementReport:
    """The placement of a compiled optimizer step and of its state. `str()` of it is a table.

    Attributes:
        operations (tuple[Operation]): Every operation of the step, in the order of the graph.
        parameters (int): How many elements the optimizer updates on this rank.
        tensors (int): How many parameters they are in.
        offload_ratio (float): The share of the elements whose states `moment1` are on the host.
        state_bytes (dict[str, dict[str, int]]): Of "host" and of "device", the bytes of each state by its name. A state
            is on the host when only operations on the host use it.
        to_host_bytes (int): Bytes that a step moves from the device to the host.
        to_device_bytes (int): Bytes that a step moves from the host to the device.
        interconnect_bytes (int): Bytes that a step receives from the devices of other ranks, if these share the states.
    """

    operations: tuple[Operation, ...]
    parameters: int
    tensors: int
    offload_ratio: float
    state_bytes: dict[str, dict[str, int]]
    to_host_bytes: int
    to_device_bytes: int
    interconnect_bytes: int

    def __str__(self) -> str:
        lines = [f"{'operation':32}{'placed on':>10}{'launches':>10}"]
        counted = Counter(sorted(self.operations, key=lambda each: (each.place, each.name)))
        lines += [f"{name:32}{place:>10}{count:10}" for (name, place), count in counted.items()]
        lines += ["", f"{'':32}{'bytes':>16}{'a parameter':>14}"]
        sizes = {f"state on the {place}": sum(states.values()) for place, states in self.state_bytes.items()}
        sizes["device to host, a step"] = self.to_host_bytes
        sizes["host to device, a step"] = self.to_device_bytes
        if self.interconnect_bytes:
            sizes["from other devices, a step"] = self.interconnect_bytes
        for what, size in sizes.items():
            lines.append(f"{what:32}{size:16,}{size / self.parameters:14.2f}")
        launches = sum(operation.place == "device" for operation in self.operations)
        lines += ["", f"{'offload_ratio, as reached':32}{self.offload_ratio:16.4f}"]
        lines.append(f"{'launches on the device':32}{launches:16,}{launches / self.tensors:14.2f} a tensor")
        return "\n".join(lines)


def placement_report(train_cell: nn.Cell, *inputs: Tensor) -> PlacementReport:
    """Compiles a training cell, and reports where the operations and the states of its optimizer are.

    The device is what the device target says. With the CPU as the target, host and device share their memory; the
    report then says what a graph of the same placement would move if they did not.

    Args:
        train_cell (Cell): A cell that holds one optimizer as `optimizer` and steps it, as `nn.TrainOneStepCell` does.
        *inputs (Tensor): What the cell is called with. It is compiled for their shapes and not run.

    Returns:
        PlacementReport

    Raises:
        ValueError: If `train_cell` has no optimizer in its attribute `optimizer`.
    """
    optimizer = getattr(train_cell, "optimizer", None)
    if optimizer is None:
        must, got = "hold its optimizer in the attribute 'optimizer'", f"{type(train_cell).__name__} without one"
        cure = "use nn.TrainOneStepCell or a subclass"
        refuse(ValueError, "placement_report", "argument 'train_cell'", must, got, cure)
    updated = {parameter.name for parameter in optimizer.parameters}
    states = {p.name: p.nbytes for p in optimizer.get_parameters() if p.name not in updated}
    graph = _Graph(compiled_graph(train_cell, *inputs), states)
    # A pipeline stage has its own parameters and their states only.
    elsewhere = updated - graph.parameters.keys()
    parameters = [parameter for parameter in optimizer.parameters if parameter.name not in elsewhere]
    state_bytes: dict[str, dict[str, int]] = {"host": {}, "device": {}}
    unread = _Value(0)  # for a state that the graph does not have
    for name, size in states.items():
        if name.partition(".")[2] not in elsewhere:
            state_bytes[graph.parameters.get(name, unread).place][name] = size
    total = sum(parameter.size for parameter in parameters)
    pairs = zip(optimizer.parameters, getattr(optimizer, "moment1", ()))
    offloaded = sum(parameter.size for parameter, moment in pairs if moment.name in state_bytes["host"])
    return PlacementReport(
        operations=tuple(graph.step),
        parameters=total,
        tensors=len(parameters),
        offload_ratio=offloaded / total,
        state_bytes=state_bytes,
        to_host_bytes=graph.moved_to("host"),
        to_device_bytes=graph.moved_to("device"),
        interconnect_bytes=graph.gathered,
    )


@dataclass(eq=False)
class _Value:
    """A parameter, or the result of an operation."""

    bytes: int
    place: str = "host"
    readers: set[str] = field(default_factory=set)  # the places of the operations that read it


class _Graph:
    """A compiled graph.

    Attributes:
        parameters (dict[str, _Value]): Its parameters by name.
        step (list[Operation]): The operations of the optimizer: all in its scope, and whatever else is placed on the
            host (an operation that MindSpore inlines loses its scope) or reads one of the `states`, such as the copies
            that MindSpore inserts.
        gathered (int): The bytes that the optimizer's AllGathers bring.
    """

    def __init__(self, model: ModelProto, states: Container[str]) -> None:
        # A call has no primitive.
        self._attributes = {each.name: {a.name: a.s for a in each.attribute} for each in model.primitives}
        # The values behind a name: none behind a constant, several behind a tuple.
        self._values = {parameter.name: [_Value(_bytes_of([parameter]))] for parameter in model.graph.parameter}
        self.parameters = {_last(name): value for name, (value,) in self._values.items()}
        self._states = {value for name, value in self.parameters.items() if name in states}
        self._graphs = {graph.name: graph for graph in (model.graph, *model.functions)}
        self.step: list[Operation] = []
        self.gathered = 0
        self._call(model.graph.name)
        for parameter in self.parameters.values():
            parameter.place = "host" if parameter.readers <= {"host"} else "device"

    def _call(self, name: str, given: Sequence[str] = ()) -> list[_Value]:
        """Returns the values behind a name. If it is that of a graph, such as a branch, those that it returns."""
        graph = self._graphs.pop(name, None)  # a loop calls itself
        if graph is None:
            return self._values.get(name, [])
        self._values |= {own.name: self._call(each) for own, each in zip(graph.input, given)}
        for node in graph.node:
            self._values[node.output[0]] = self._read(node)
        self._graphs[name] = graph
        return [value for output in graph.output for value in self._call(output.name)]

    def _read(self, node: NodeProto) -> list[_Value]:
        """Returns the values behind a node. Those that it reads come before it."""
        reference = node.op_type.removeprefix("REF::")
        name, attributes = reference.split(":")[0], self._attributes.get(reference)
        if attributes is None or name == "Partial":
            callee, *given = node.input if name == "Partial" else (reference, *node.input)
            return self._call(callee, given)
        read = [value for each in node.input[_PASSED_ON.get(name, _ALL)] for value in self._call(each)]
        if name in _PASSED_ON:
            return read
        shapes = [attribute for attribute in node.attribute if attribute.name == "shape"]
        shapes += [each for attribute in shapes for each in attribute.values]  # of the elements of a tuple
        size = sum(_bytes_of(attribute.tensors) for attribute in shapes)
        if name == "TupleGetItem":
            return [_Value(size, value.place) for value in read]
        place = "host" if attributes.get("primitive_target") == b"CPU" else "device"
        is_in_scope = _OPTIMIZER in node.domain
        if name == "AllGather" and is_in_scope:
            self.gathered += size - sum(value.bytes for value in read)
        if name == "Custom":
            name = f"Custom {attributes.get('func_name', b'').decode().rpartition(':')[2]}"  # behind the path
        if is_in_scope or place == "host" or not self._states.isdisjoint(read):
            self.step.append(Operation(name, place))
        for value in read:
            value.readers.add(place)
        return [_Value(size, place)]

    def moved_to(self, place: str) -> int:
        """Returns how many bytes the step moves there from the other place. A value moves once."""
        values = set().union(*self._values.values())
        return sum(value.bytes for value in values if value.place != place and place in value.readers)


def _bytes_of(tensors: Iterable[TensorProto]) -> int:
    return sum(math.prod(tensor.dims) * _BYTES.get(tensor.data_type, 0) for tensor in tensors)


def _last(name: str) -> str:
    """A value is named after its graph and, behind a colon, itself."""
    return name.split(":", 1)[-1]
