# SPDX-License-Identifier: Apache-2.0

"""Reports where the operations and the states of a step are, from the compiled graph.

This is the only module that imports private parts of MindSpore.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Optional

from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto, NodeProto, PrimitiveProto, TensorProto

from mindspore_offload.errors import refuse

try:
    from mindspore.graph.api import _cell_graph_executor
except ImportError:  # before MindSpore 2.9
    from mindspore.common.api import _cell_graph_executor

_OPTIMIZER = "/optimizer-"  # in the scope of its operations

# Operations that only order or group values, and run nowhere.
_NO_OPERATION = {"Constant", "Load", "Depend", "UpdateState", "MakeTuple", "TupleGetItem"}

# The types of an element of 1, 2, 4 and 8 bytes.
_TYPES = {
    1: (TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8),
    2: (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16),
    4: (TensorProto.FLOAT, TensorProto.INT32),
    8: (TensorProto.DOUBLE, TensorProto.INT64),
}
_BYTES = {kind: size for size, kinds in _TYPES.items() for kind in kinds}


class Operation(NamedTuple):
    """An operation of the optimizer step, and where the compiled graph places it: "host" or "device"."""

    name: str
    place: str


@dataclass(frozen=True)
class PlacementReport:
    """The placement of a compiled optimizer step and of its state. `str()` of it is a table.

    Attributes:
        operations (tuple[Operation]): Every operation of the step, in the order of the graph.
        parameters (int): How many elements the optimizer updates.
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
        counted = sorted(Counter(self.operations).items(), key=lambda item: (item[0].place, item[0].name))
        lines += [f"{name:32}{place:>10}{count:10}" for (name, place), count in counted]
        lines += ["", f"{'':32}{'bytes':>16}{'a parameter':>14}"]
        sizes = {
            "state on the host": sum(self.state_bytes["host"].values()),
            "state on the device": sum(self.state_bytes["device"].values()),
            "device to host, a step": self.to_host_bytes,
            "host to device, a step": self.to_device_bytes,
        }
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
    graph = _Graph(_compile(train_cell, inputs), states)
    state_bytes: dict[str, dict[str, int]] = {"host": {}, "device": {}}
    for name, size in states.items():
        state_bytes[graph.place_of(name)][name] = size
    to_host, to_device = graph.traffic()
    total = sum(parameter.size for parameter in optimizer.parameters)
    pairs = zip(optimizer.parameters, getattr(optimizer, "moment1", ()))
    offloaded = sum(parameter.size for parameter, moment in pairs if moment.name in state_bytes["host"])
    return PlacementReport(
        operations=tuple(Operation(node.name, node.place) for node in graph.step),
        parameters=total,
        tensors=len(optimizer.parameters),
        offload_ratio=offloaded / total,
        state_bytes=state_bytes,
        to_host_bytes=to_host,
        to_device_bytes=to_device,
        interconnect_bytes=graph.gathered,
    )


def _compile(cell: nn.Cell, inputs: tuple[Tensor, ...]) -> ModelProto:
    """The compiled graph of a cell, as MindSpore's own protocol buffer."""
    cell.compile(*inputs)
    phase, _ = _cell_graph_executor.compile(cell, *inputs, phase="train")
    model = ModelProto()
    model.ParseFromString(_cell_graph_executor._graph_executor.get_func_graph_proto(phase, "mind_ir", False))
    return model


@dataclass(frozen=True)
class _Node:
    name: str
    place: str
    scope: str
    inputs: tuple[str, ...]


class _Graph:
    """Operations of a compiled graph, with the values that flow between them.

    `step` has those of the optimizer: all in its scope, and whatever else is placed on the host (an operation
    that MindSpore inlines loses its scope) or uses one of its `states`, such as the copies that MindSpore inserts.
    """

    def __init__(self, model: ModelProto, states: Container[str]) -> None:
        primitives = {primitive.name: primitive for primitive in model.primitives}
        self.parameters = {parameter.name for parameter in model.graph.parameter}
        self._sizes = {parameter.name: _bytes_of(parameter) for parameter in model.graph.parameter}
        self._places: dict[str, Optional[str]] = {}  # of each value that an operation makes
        self._groups: dict[str, Iterable[str]] = {}  # of what only groups or passes on values: what it groups
        self.gathered = 0  # bytes that the optimizer's AllGathers bring
        nodes: list[_Node] = []
        for graph in (model.graph, *model.functions):
            for node in graph.node:
                nodes += self._read(node, primitives)
        self._users = defaultdict(list)
        self.step = []
        for node in nodes:
            values = set().union(*(self._values(name) for name in node.inputs))
            for value in values:
                self._users[value].append(node)
            if _OPTIMIZER in node.scope or node.place == "host" or any(_last(value) in states for value in values):
                self.step.append(node)

    def _read(self, node: NodeProto, primitives: dict[str, PrimitiveProto]) -> Iterator[_Node]:
        """Notes the value of a node, and yields the node if it is an operation."""
        reference = node.op_type.removeprefix("REF::")
        name = reference.split(":")[0]
        (value,) = node.output
        shapes = [attribute for attribute in node.attribute if attribute.name == "shape"]
        shapes += [each for attribute in shapes for each in attribute.values]  # of the elements of a tuple
        self._sizes[value] = sum(_bytes_of(tensor) for attribute in shapes for tensor in attribute.tensors)
        if name in ("Load", "Depend"):
            self._groups[value] = node.input[:1]
        elif name == "MakeTuple":
            self._groups[value] = node.input
        elif name == "TupleGetItem":
            self._places[value] = self._places.get(node.input[0])
        elif name not in _NO_OPERATION:
            primitive = primitives.get(reference)
            place = "host" if _attribute(primitive, "primitive_target") == "CPU" else "device"
            self._places[value] = place
            if name == "AllGather" and _OPTIMIZER in node.domain:
                self.gathered += self._sizes[value] - self._sizes[node.input[0]]
            if name == "Custom":
                path_and_function = _attribute(primitive, "func_name")
                name = f"Custom {path_and_function.rpartition(':')[2]}"
            yield _Node(name, place, node.domain, tuple(node.input))

    def _values(self, name: str) -> set[str]:
        """The values behind an input, through what groups or passes them on."""
        if name not in self._groups:
            return {name}
        return set().union(*(self._values(inner) for inner in self._groups[name]))

    def place_of(self, state: str) -> str:
        """Returns "host" for the state of this name if nothing on the device uses it, else "device"."""
        return next((self._place_of_parameter(p) for p in self.parameters if _last(p) == state), "host")

    def _place_of_parameter(self, parameter: str) -> str:
        return "device" if any(node.place == "device" for node in self._users[parameter]) else "host"

    def traffic(self) -> tuple[int, int]:
        """Bytes that the optimizer step moves to the host and to the device. A value moves once each way."""
        moved = {"host": 0, "device": 0}
        of_step = set(map(id, self.step))
        for value, nodes in list(self._users.items()):
            place = self._place_of_parameter(value) if value in self.parameters else self._places.get(value)
            if place is None:  # a constant, or an input of the training cell
                continue
            for other in {node.place for node in nodes if id(node) in of_step} - {place}:
                moved[other] += self._sizes[value]
        return moved["host"], moved["device"]


def _attribute(primitive: Optional[PrimitiveProto], name: str) -> str:
    """A text attribute of a primitive; empty without it, or for a call of another graph, which has no primitive."""
    found = [attribute.s for attribute in primitive.attribute if attribute.name == name] if primitive else []
    return (found[0].decode() if isinstance(found[0], bytes) else found[0]) if found else ""


def _bytes_of(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * _BYTES.get(tensor.data_type, 0)


def _last(value: str) -> str:
    """A value is named after its graph and, behind a colon, itself."""
    return value.split(":", 1)[-1]
