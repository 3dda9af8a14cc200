# SPDX-License-Identifier: Apache-2.0

"""Reports where the operations and the states of a step are, from the compiled graph."""

import math
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Optional

from mindspore import Tensor, nn

from mindspore_offload.errors import refuse
from mindspore_offload.mindspore_private import ModelProto, NodeProto, PrimitiveProto, TensorProto, compiled_graph

_OPTIMIZER = "/optimizer-"  # in the scope of its operations

# Operations that only order or group values, and run nowhere; and of those that group, how many inputs they pass on.
_NO_OPERATION = {"Constant", "UpdateState"}
_GROUPS = {"Load": 1, "Depend": 1, "MakeTuple": None}

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
    graph = _Graph(ModelProto.FromString(compiled_graph(train_cell, *inputs)), states)
    # A pipeline stage has its own parameters and their states only.
    names = {_last(parameter) for parameter in graph.parameters}
    parameters = [parameter for parameter in optimizer.parameters if parameter.name in names]
    elsewhere = updated - names
    states = {name: size for name, size in states.items() if name.partition(".")[2] not in elsewhere}
    state_bytes: dict[str, dict[str, int]] = {"host": {}, "device": {}}
    for name, size in states.items():
        state_bytes[graph.place_of(name)][name] = size
    moved = graph.traffic()
    total = sum(parameter.size for parameter in parameters)
    pairs = zip(optimizer.parameters, getattr(optimizer, "moment1", ()))
    offloaded = sum(parameter.size for parameter, moment in pairs if moment.name in state_bytes["host"])
    return PlacementReport(
        operations=tuple(node.operation for node in graph.step),
        parameters=total,
        tensors=len(parameters),
        offload_ratio=offloaded / total,
        state_bytes=state_bytes,
        to_host_bytes=moved["host"],
        to_device_bytes=moved["device"],
        interconnect_bytes=graph.gathered,
    )


class _Node(NamedTuple):
    operation: Operation
    scope: str
    inputs: set[str]  # the values that it reads


class _Graph:
    """Operations of a compiled graph, with the values that flow between them.

    `step` has those of the optimizer: all in its scope, and whatever else is placed on the host (an operation
    that MindSpore inlines loses its scope) or uses one of its `states`, such as the copies that MindSpore inserts.
    """

    def __init__(self, model: ModelProto, states: Container[str]) -> None:
        self._primitives = {primitive.name: primitive for primitive in model.primitives}
        self._sizes = {parameter.name: _bytes_of(parameter) for parameter in model.graph.parameter}
        self._places: dict[str, str] = {}  # of each parameter, and of each value that an operation makes
        self._groups: dict[str, set[str]] = {}  # the values behind one that only groups or passes on others
        self.gathered = 0  # bytes that the optimizer's AllGathers bring
        self.parameters = set(self._sizes)
        self._users: dict[str, list[_Node]] = defaultdict(list)
        self.step = []
        graphs = (model.graph, *model.functions)
        for node in [node for graph in graphs for proto in graph.node for node in self._read(proto)]:
            values = set().union(*map(self._values, node.inputs))
            for value in values:
                self._users[value].append(node)
            if _OPTIMIZER in node.scope or node.operation.place == "host" or any(_last(v) in states for v in values):
                self.step.append(node)
        for parameter in self.parameters:
            is_on_device = any(node.operation.place == "device" for node in self._users[parameter])
            self._places[parameter] = "device" if is_on_device else "host"

    def _read(self, node: NodeProto) -> Iterator[_Node]:
        """Notes the value of a node, and yields the node if it is an operation."""
        reference = node.op_type.removeprefix("REF::")
        name, primitive, (value,) = reference.split(":")[0], self._primitives.get(reference), node.output
        shapes = [attribute for attribute in node.attribute if attribute.name == "shape"]
        shapes += [each for attribute in shapes for each in attribute.values]  # of the elements of a tuple
        self._sizes[value] = sum(_bytes_of(tensor) for attribute in shapes for tensor in attribute.tensors)
        if name in _GROUPS:
            self._groups[value] = set(node.input[: _GROUPS[name]])
        elif name == "TupleGetItem":
            if node.input[0] in self._places:
                self._places[value] = self._places[node.input[0]]
        elif name not in _NO_OPERATION:
            place = "host" if _attribute(primitive, "primitive_target") == "CPU" else "device"
            self._places[value] = place
            if name == "AllGather" and _OPTIMIZER in node.domain:
                self.gathered += self._sizes[value] - self._sizes[node.input[0]]
            if name == "Custom":
                name = f"Custom {_attribute(primitive, 'func_name').rpartition(':')[2]}"  # behind the path
            yield _Node(Operation(name, place), node.domain, set(node.input))

    def _values(self, name: str) -> set[str]:
        """The values behind an input, through what groups or passes them on."""
        if name not in self._groups:
            return {name}
        return set().union(*map(self._values, self._groups[name]))

    def place_of(self, state: str) -> str:
        """Returns "host" for the state of this name if nothing on the device uses it, else "device"."""
        return next((self._places[parameter] for parameter in self.parameters if _last(parameter) == state), "host")

    def traffic(self) -> dict[str, int]:
        """Bytes that the optimizer step moves to "host" and to "device". A value moves once each way."""
        moved, of_step = {"host": 0, "device": 0}, set(map(id, self.step))
        for value, place in self._places.items():  # constants and inputs of the training cell have none
            for other in {node.operation.place for node in self._users[value] if id(node) in of_step} - {place}:
                moved[other] += self._sizes[value]
        return moved


def _attribute(primitive: Optional[PrimitiveProto], name: str) -> str:
    """A text attribute of a primitive; empty without it, or for a call of another graph, which has no primitive."""
    found = next((attribute.s for attribute in primitive.attribute if attribute.name == name), "") if primitive else ""
    return found.decode() if isinstance(found, bytes) else found


def _bytes_of(tensor: TensorProto) -> int:
    return math.prod(tensor.dims) * _BYTES.get(tensor.data_type, 0)


def _last(value: str) -> str:
    """A value is named after its graph and, behind a colon, itself."""
    return value.split(":", 1)[-1]
