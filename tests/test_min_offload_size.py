# SPDX-License-Identifier: Apache-2.0

"""Small parameters on the device: the same values and names, with states on the device too."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from test_clipping import OPTIMIZERS, spoiled
from test_writeback import new_parameters, take_steps, values

from mindspore_offload import AdamOffload, placement_report


@pytest.fixture(params=OPTIMIZERS)
def new_optimizer(request):
    return OPTIMIZERS[request.param]


SETTINGS = {
    "plain": {},
    "decay+nesterov": {"weight_decay": 0.1, "use_nesterov": True},
    "clip+loss-scale": {"weight_decay": 0.1, "max_grad_norm": 1.0, "skip_nonfinite": True, "loss_scale": 1000.0},
}


def mixed_parameters():
    """Returns large and small parameters, mixed, of all dtypes."""
    large, small = new_parameters(["float32", "float16", "bfloat16"], 50), new_parameters(["float32"] * 4, 10)
    dtypes = [ms.float32, ms.float16, ms.bfloat16, ms.float32]
    small = [ms.Parameter(p.value().astype(dtype), name=f"small{i}") for i, (p, dtype) in enumerate(zip(small, dtypes))]
    return [small[0], large[0], small[1], small[2], large[1], large[2], small[3]]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("writeback", ["in_place", "assign"])
def test_values_and_names_do_not_depend_on_the_bound(settings, writeback, host_kernel, new_optimizer):
    ends = []
    for size in (0, 20):
        parameters = mixed_parameters()
        optimizer = new_optimizer(
            parameters, 0.01, host_kernel=host_kernel, writeback=writeback, min_offload_size=size, **settings
        )
        take_steps(optimizer, 5)
        if "skip_nonfinite" in settings:
            before = values(optimizer)
            optimizer(spoiled(tuple(Tensor(np.ones(p.shape), p.dtype) for p in parameters), np.nan))
            np.testing.assert_array_equal(values(optimizer)["small1"], before["small1"])
            np.testing.assert_array_equal(values(optimizer)["moment1.small3"], before["moment1.small3"])
        ends.append(values(optimizer))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        unit = 2**-7 if name in ("weight2", "small2") else 2**-10 if name in ("weight1", "small1") else 1e-5
        np.testing.assert_allclose(ends[1][name], value, rtol=unit, atol=1e-6, err_msg=name)


def test_weights_changed_outside_win():
    optimizer = AdamOffload(mixed_parameters(), 1e-3, min_offload_size=20)
    take_steps(optimizer, 2)
    for parameter in optimizer.parameters:
        parameter.set_data(Tensor(np.full(parameter.shape, 5), parameter.dtype))
    take_steps(optimizer, 1)
    for master in optimizer.master:
        np.testing.assert_allclose(master.asnumpy(), 5, atol=4e-3)
        assert (master.asnumpy() != 5).all()


class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Dense(60, 50, has_bias=False), nn.Dense(50, 3)

    def construct(self, inputs):
        return self.small(self.large(inputs)).sum()


def test_the_report_shows_what_stays_on_the_device(host_kernel):
    net = Net()
    optimizer = AdamOffload(net.trainable_params(), host_kernel=host_kernel, writeback="assign", min_offload_size=1000)
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((2, 60), np.float32)))
    assert set(found.state_bytes["device"]) == {
        "learning_rate",
        *(f"{moment}.small.{name}" for moment in ("moment1", "moment2") for name in ("weight", "bias")),
    }
    on_device = [operation.name for operation in found.operations if operation.place == "device"]
    assert on_device.count("Adam") == 2
    assert on_device.count("AssignAdd") == 1
    # The gradient and the difference of the large parameter, and a few scalars.
    assert found.to_host_bytes == 4 * 3000 + 4  # and the learning rate
    assert found.to_device_bytes < 4 * 3000 + 100


@pytest.mark.parametrize("size", [1, 10**9], ids=["none-is-small", "all-are-small"])
def test_bounds(size):
    ends = []
    for bound in (0, size):
        optimizer = AdamOffload(new_parameters(["float32", "float16"]), min_offload_size=bound)
        take_steps(optimizer, 3)
        ends.append(values(optimizer))
    for name, value in ends[0].items():
        np.testing.assert_allclose(ends[1][name], value, rtol=2**-10 if name == "weight1" else 1e-5, atol=1e-6)
