# SPDX-License-Identifier: Apache-2.0

"""Placement in the compiled graph: on an accelerator, states and Adam are on the host, writes on the device.

The tests need no accelerator. The graph marks each operation that is placed on the host; the device runs the others.
The marks are the same for every device target, so the tests read them from graphs compiled for the CPU.
"""

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_offload import AdamOffload, AdamWOffload, placement_report

# A float32 weight exceeds the bound of a bucket, so each weight, and each bias between them, is its own bucket. In
# float16, the last three tensors fit into one bucket.
LAYERS = [(3000, 3000), (3000, 2900)]
PARAMETERS = sum(i * o + o for i, o in LAYERS)


class Net(nn.Cell):
    def __init__(self, dtype):
        super().__init__()
        self.layers = nn.SequentialCell(*[nn.Dense(i, o) for i, o in LAYERS])
        for parameter in self.layers.get_parameters():
            parameter.set_dtype(dtype)

    def construct(self, inputs):
        return self.layers(inputs).astype(ms.float32).sum()


def report(dtype, host_kernel, writeback, optimizer_class=AdamOffload, **settings):
    net = Net(dtype)
    optimizer = optimizer_class(net.trainable_params(), host_kernel=host_kernel, writeback=writeback, **settings)
    inputs = Tensor(np.ones((2, LAYERS[0][0]), np.float32)).astype(dtype)
    return placement_report(nn.TrainOneStepCell(net, optimizer), inputs)


def operation_counts(found, place):
    names = [operation.name for operation in found.operations if operation.place == place]
    return {name: names.count(name) for name in names}


SETTINGS = {"plain": {}, "decay+nesterov+loss-scale": {"weight_decay": 0.1, "use_nesterov": True, "loss_scale": 1024.0}}
TENSORS = 2 * len(LAYERS)


def copies(dtype):
    """Returns how many values the device copies for the host: the learning rate, and the 16-bit parameters."""
    return 1 + (TENSORS if dtype == ms.float16 else 0)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("dtype", "buckets", "writes", "state", "to_host", "to_device"),
    [(ms.float32, 4, "AssignAdd", 8, 4, 4), (ms.float16, 2, "Assign", 12, 4, 2)],
    ids=["float32", "float16"],
)
def test_assign(dtype, buckets, writes, state, to_host, to_device, settings, host_kernel):
    """The gradient goes to the host, as does a 16-bit parameter, to detect changes. The result goes to the device."""
    found = report(dtype, host_kernel, "assign", **settings)
    device = {writes: TENSORS, "TensorMove": copies(dtype)}
    if "weight_decay" in settings and dtype == ms.float32:
        # The device adds the decay to the gradient: a product and a sum for each weight.
        device = {**device, "Mul": TENSORS, "Add": TENSORS}
    assert operation_counts(found, "device") == device
    assert found.state_bytes["device"] == {"learning_rate": 4}

    host = operation_counts(found, "host")
    if host_kernel == "native":
        assert host["Custom AdamAssign"] == buckets
        # Where the device decays, the kernel gets a row for each tensor, which is gathered and selected.
        assert host.keys() <= {"Custom AdamAssign", "Assign", "AssignAdd", "Gather", "Select", *COEFFICIENTS}
    else:
        assert host["Adam"] == TENSORS

    near = {"rel": 1e-3}  # a few bytes a tensor are scalars
    assert sum(found.state_bytes["host"].values()) / PARAMETERS == pytest.approx(state, **near)
    assert found.to_host_bytes / PARAMETERS == pytest.approx(to_host, **near)
    assert found.to_device_bytes / PARAMETERS == pytest.approx(to_device, **near)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["float32", "float16"])
def test_decoupled_decay(dtype, host_kernel):
    """A float32 weight decays on its device, a master on the host."""
    found = report(dtype, host_kernel, "assign", AdamWOffload)
    decay_and_write = {"AssignAdd": TENSORS, "AssignSub": TENSORS, "Mul": TENSORS}
    writes = decay_and_write if dtype == ms.float32 else {"Assign": TENSORS}
    assert operation_counts(found, "device") == {**writes, "TensorMove": copies(dtype)}
    assert found.to_host_bytes / PARAMETERS == pytest.approx(4, rel=1e-3)


COEFFICIENTS = {"Stack", "Concat", "Reshape", "Unstack", "Cast", "Sub", "Mul", "Div", "Sqrt"}


@pytest.mark.parametrize(("dtype", "state"), [(ms.float32, 4), (ms.float16, 8)], ids=["float32", "float16"])
def test_bfloat16_moments(dtype, state):
    """The states are 4 bytes a parameter smaller. Operations and transfers are the same."""
    found, exact = (report(dtype, "native", "assign", moment_dtype=moments) for moments in (ms.bfloat16, ms.float32))
    assert sum(found.state_bytes["host"].values()) / PARAMETERS == pytest.approx(state, rel=1e-3)
    assert found.state_bytes["host"]["moment1.layers.0.weight"] == 2 * LAYERS[0][0] * LAYERS[0][1]
    assert found.state_bytes["device"] == exact.state_bytes["device"]
    assert operation_counts(found, "device") == operation_counts(exact, "device")
    assert (found.to_host_bytes, found.to_device_bytes) == (exact.to_host_bytes, exact.to_device_bytes)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["float32", "float16"])
def test_in_place(dtype, host_kernel):
    """Everything is on the host; the device is the host."""
    found = report(dtype, host_kernel, "in_place")
    assert operation_counts(found, "device") == {}
    assert found.state_bytes["device"] == {}


def test_a_state_on_the_device_is_noticed():
    """The report of nn.Adam shows all its states and operations on the device."""
    net = Net(ms.float32)
    found = placement_report(
        nn.TrainOneStepCell(net, nn.Adam(net.trainable_params())), Tensor(np.ones((2, 3000), np.float32))
    )
    assert operation_counts(found, "host") == {}
    assert operation_counts(found, "device")["Adam"] == TENSORS
    assert sum(found.state_bytes["device"].values()) / PARAMETERS == pytest.approx(8, rel=1e-3)
    assert (found.to_host_bytes, found.to_device_bytes) == (0, 0)


def test_the_report_is_printed_as_a_table():
    lines = str(report(ms.float16, "native", "assign")).splitlines()
    assert [line.split() for line in lines if line.startswith(("Assign ", "Custom"))] == [
        ["Assign", "device", "4"],
        ["Assign", "host", "2"],
        ["Custom", "AdamAssign", "host", "2"],
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
        placement_report(Net(ms.float32), ops.ones((2, 3000)))
