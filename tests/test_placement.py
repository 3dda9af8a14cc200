"""The compiled graph says where everything runs: on an accelerator, states and Adam on the host, writes on the device.

There is no accelerator here. An operation that is placed on the host says so in the graph, and any other one is left to
the device. That is the same for every device target, so the placement is read from graphs that are compiled for the
CPU.
"""

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindspore_offload import AdamOffload, AdamWOffload, placement_report

# A float32 weight is larger than a bucket's bound, and so a bucket of its own, as is each bias between them. In float16
# the last three tensors fit into one bucket.
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


def count(found, place):
    names = [operation.name for operation in found.operations if operation.place == place]
    return {name: names.count(name) for name in names}


SETTINGS = {"plain": {}, "decay+nesterov+loss-scale": {"weight_decay": 0.1, "use_nesterov": True, "loss_scale": 1024.0}}
TENSORS = 2 * len(LAYERS)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(
    ("dtype", "buckets", "writes", "state", "to_host", "to_device"),
    [(ms.float32, 4, "AssignAdd", 8, 4, 4), (ms.float16, 2, "Assign", 12, 4, 2)],
    ids=["float32", "float16"],
)
def test_assign(dtype, buckets, writes, state, to_host, to_device, settings, host_kernel):
    """To the host: the gradient and, of 16 bits, the parameter, to see outside changes. To the device: the result."""
    found = report(dtype, host_kernel, "assign", **settings)
    device = {writes: TENSORS}
    if "weight_decay" in settings and dtype == ms.float32:
        # The operands of the decay are on the device: a product and a sum for each weight.
        device = {**device, "Mul": TENSORS, "Add": TENSORS}
    assert count(found, "device") == device
    assert found.state_bytes["device"] == {}

    host = count(found, "host")
    if host_kernel == "native":
        assert host["Custom AdamAssign"] == buckets
        assert host.keys() <= {"Custom AdamAssign", "Assign", "AssignAdd", *COEFFICIENTS}
    else:
        assert host["Adam"] == TENSORS

    near = {"rel": 1e-3}  # a few bytes a tensor are scalars
    assert sum(found.state_bytes["host"].values()) / PARAMETERS == pytest.approx(state, **near)
    assert found.to_host_bytes / PARAMETERS == pytest.approx(to_host, **near)
    assert found.to_device_bytes / PARAMETERS == pytest.approx(to_device, **near)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["float32", "float16"])
def test_decoupled_decay(dtype, host_kernel):
    """Of a float32 weight it is where the weight is: on the device. A master decays on the host."""
    found = report(dtype, host_kernel, "assign", AdamWOffload)
    at_home = {"AssignAdd": TENSORS, "AssignSub": TENSORS, "Mul": TENSORS}
    assert count(found, "device") == (at_home if dtype == ms.float32 else {"Assign": TENSORS})
    assert found.to_host_bytes / PARAMETERS == pytest.approx(4, rel=1e-3)


COEFFICIENTS = {"Stack", "Concat", "Reshape", "Unstack", "Cast", "Sub", "Mul", "Div", "Sqrt"}


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=["float32", "float16"])
def test_in_place(dtype, host_kernel):
    """Nothing is left to the device, which is the host."""
    found = report(dtype, host_kernel, "in_place")
    assert count(found, "device") == {}
    assert found.state_bytes["device"] == {}


def test_a_state_on_the_device_is_noticed():
    """What a report says of nn.Adam, whose states and operations are all on the device."""
    net = Net(ms.float32)
    found = placement_report(
        nn.TrainOneStepCell(net, nn.Adam(net.trainable_params())), Tensor(np.ones((2, 3000), np.float32))
    )
    assert count(found, "host") == {}
    assert count(found, "device")["Adam"] == TENSORS
    assert sum(found.state_bytes["device"].values()) / PARAMETERS == pytest.approx(8, rel=1e-3)
    assert (found.to_host_bytes, found.to_device_bytes) == (0, 0)


def test_it_is_printed_as_a_table():
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


def test_the_documentation_shows_what_the_command_prints():
    """The table of the larger net is made in the same way, but takes half a minute."""
    root = Path(__file__).parent.parent
    command = [sys.executable, str(root / "examples" / "placement.py"), "lenet"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == (root / "docs_en" / "placement_lenet.txt").read_text(encoding="utf-8")


def test_a_cell_without_an_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"'train_cell' must hold its optimizer .* but got Net without one"):
        placement_report(Net(ms.float32), ops.ones((2, 3000)))
