# SPDX-License-Identifier: Apache-2.0

"""Placement in the compiled graph: on an accelerator, states and Adam are on the host, writes on the device.

`make second-memory` measures the bytes that really move. These tests need no accelerator: the graph marks each
operation that is placed on the host; the device runs the others. The marks are the same for every device target, so the
tests read them from graphs compiled for the CPU.
"""

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_offload import AdamOffload, AdamWOffload, placement_report
from mindspore_offload.states import buckets

LAYERS = [(300, 300), (300, 290)]
PARAMETERS = sum(i * o + o for i, o in LAYERS)
TENSORS = 2 * len(LAYERS)


class Net(nn.Cell):
    def __init__(self, dtype):
        super().__init__()
        self.layers = nn.SequentialCell(*[nn.Dense(i, o) for i, o in LAYERS])
        for parameter in self.layers.get_parameters():
            parameter.set_dtype(dtype)

    def construct(self, inputs):
        return self.layers(inputs).astype(ms.float32).sum()


def report(dtype, optimizer_class=AdamOffload, cell_class=nn.TrainOneStepCell, **settings):
    net = Net(dtype)
    optimizer = optimizer_class(net.trainable_params(), **settings)
    inputs = Tensor(np.ones((2, LAYERS[0][0]), np.float32)).astype(dtype)
    return placement_report(cell_class(net, optimizer), inputs)


def names_at(found, place):
    return [operation.name for operation in found.operations if operation.place == place]


def bytes_of(found):
    """Returns the bytes a parameter of states on the host, of transfers to the host, and of those to the device."""
    totals = sum(found.state_bytes["host"].values()), found.to_host_bytes, found.to_device_bytes
    return [total / PARAMETERS for total in totals]


ALL = {"weight_decay": 0.1, "use_nesterov": True, "loss_scale": 1024.0, "max_grad_norm": 1.0, "skip_nonfinite": True}
STOCK = {**ALL, "host_kernel": "stock"}
full = pytest.mark.full


@pytest.mark.parametrize(
    ("dtype", "optimizer_class", "settings"),
    [
        (ms.float32, AdamOffload, {}),
        (ms.float32, AdamOffload, ALL),
        (ms.float16, AdamOffload, ALL),
        (ms.float32, AdamWOffload, {**ALL, "moment_dtype": ms.bfloat16}),
        pytest.param(ms.float16, AdamOffload, {}, marks=full),
        pytest.param(ms.float16, AdamWOffload, ALL, marks=full),
        pytest.param(ms.float32, AdamOffload, {"host_kernel": "stock"}, marks=full),
        pytest.param(ms.float32, AdamWOffload, STOCK, marks=full),
        pytest.param(ms.float16, AdamOffload, STOCK, marks=full),
    ],
    ids=lambda value: (
        getattr(value, "__name__", None) or (str(value) if not isinstance(value, dict) else "+".join(value))
    ),
)
def test_assign(dtype, optimizer_class, settings, monkeypatch):
    """The gradient goes to the host, as does a 16-bit parameter, to detect changes. The result goes to the device.

    Each weight, and each bias, is its own bucket. A float32 gradient goes twice if it is clipped and has a penalty: the
    norm is that of the gradient before the device adds the penalty. No other feature moves more.
    """
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)
    found = report(dtype, optimizer_class, writeback="assign", **settings)
    moments = 4 if settings.get("moment_dtype") == ms.bfloat16 else 8
    is_sent_twice = optimizer_class is AdamOffload and {"weight_decay", "max_grad_norm"} <= settings.keys()
    expected = [moments, 8 if is_sent_twice else 4, 4] if dtype == ms.float32 else [moments + 4, 2 + 2, 2]
    if dtype == ms.float16 and settings == STOCK:  # MindSpore copies the master on the device, and twice back
        expected = [moments + 4, 2 + 2 + 8, 2 + 4]
    assert bytes_of(found) == pytest.approx(expected, rel=0.02)  # some bytes a tensor are scalars
    assert found.state_bytes["device"] == {"learning_rate": 4}
    update = "Adam" if settings.get("host_kernel") == "stock" else "Custom AdamAssign"
    assert names_at(found, "host").count(update) == TENSORS
    assert not {"Adam", "Custom AdamAssign"} & {*names_at(found, "device")}


def test_in_place():
    """Everything is on the host; the device is the host."""
    found = report(ms.float32, writeback="in_place")
    assert names_at(found, "device") == []
    assert found.state_bytes["device"] == {}


def test_a_state_on_the_device_is_noticed():
    """The report of nn.Adam shows all its states and operations on the device."""
    found = report(ms.float32, nn.Adam)
    assert names_at(found, "host") == []
    assert names_at(found, "device").count("Adam") == TENSORS
    assert sum(found.state_bytes["device"].values()) / PARAMETERS == pytest.approx(8, rel=1e-3)
    assert (found.to_host_bytes, found.to_device_bytes) == (0, 0)


class Branching(nn.TrainOneStepCell):
    """Updates in a branch, as loss scaling does that skips overflows. MindSpore makes a function of each branch."""

    def construct(self, inputs):
        loss = self.network(inputs)
        gradients = self.grad(self.network, self.weights)(inputs, loss)
        if loss > 0:
            loss = ops.depend(loss, self.optimizer(gradients))
        return loss


class Nested(Branching):
    """Updates in a branch of a branch."""

    def construct(self, inputs):
        loss = self.network(inputs)
        gradients = self.grad(self.network, self.weights)(inputs, loss)
        if loss > 0:
            loss = loss - 1
            if loss < 10:
                loss = ops.depend(loss, self.optimizer(gradients))
        return loss


class Looping(Branching):
    """Updates in a loop."""

    def construct(self, inputs):
        loss, steps = self.network(inputs), Tensor(0)
        while steps < 2:
            self.optimizer(self.grad(self.network, self.weights)(inputs, loss))
            steps = steps + 1
        return loss


class Reading(Branching):
    """Also reads a state outside the optimizer, on the device."""

    def construct(self, inputs):
        loss = self.network(inputs)
        gradients = self.grad(self.network, self.weights)(inputs, loss)
        if loss > 0:
            self.optimizer(gradients)
            loss = loss + ops.ReduceMax()(self.optimizer.moment1[0])
        return loss


@pytest.mark.parametrize("cell_class", [Branching, Nested, Looping])
@pytest.mark.parametrize("writeback", ["assign", "in_place"])
def test_a_step_in_a_branch_is_reported_as_without(cell_class, writeback):
    found, expected = (
        report(ms.float16, cell_class=each, writeback=writeback) for each in (cell_class, nn.TrainOneStepCell)
    )
    assert str(found) == str(expected)
    assert found.state_bytes == expected.state_bytes


@pytest.mark.parametrize("optimizer_class", [AdamOffload, nn.Adam])
def test_a_branch_reads_states_too(optimizer_class):
    found = report(ms.float32, optimizer_class, cell_class=Reading)
    assert names_at(found, "device").count("ReduceMax") == 1
    assert "ReduceMax" not in names_at(found, "host")
    assert "moment1.layers.0.weight" in found.state_bytes["device"]
    assert "moment1.layers.1.weight" in found.state_bytes["device" if optimizer_class is nn.Adam else "host"]


def test_the_report_is_printed_as_a_table():
    """All four tensors fit into one bucket."""
    lines = str(report(ms.float16, writeback="assign")).splitlines()
    assert [line.split() for line in lines if line.startswith(("Assign ", "Custom"))] == [
        ["Assign", "device", "4"],
        ["Assign", "host", "2"],
        ["Custom", "AdamAssign", "host", "1"],
    ]
    assert [line.split()[-1] for line in lines if line.startswith(("state", "device to", "host to"))] == [
        "12.00",
        "0.00",
        "4.00",
        "2.00",
    ]


@pytest.mark.newest("other versions compile this net to other operations")
def test_the_documentation_shows_what_the_command_prints():
    """Only the small net is checked: the table of the larger one is made the same way, but takes half a minute."""
    root = Path(__file__).parent.parent
    command = [sys.executable, str(root / "examples" / "placement.py"), "lenet"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == (root / "docs_en" / "placement_lenet.txt").read_text(encoding="utf-8")


def test_a_cell_without_an_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"'train_cell' must hold its optimizer .* but got Net without one"):
        placement_report(Net(ms.float32), ops.ones((2, 300)))
