# SPDX-License-Identifier: Apache-2.0

"""Small parameters on the device: which are small, and where their states are. test_update.py has their updates."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload, placement_report


def test_parameters_with_fewer_elements_are_small():
    """These keep float32 moments, and no name depends on the bound."""
    parameters = [Parameter(Tensor(np.ones(size, np.float32)), name=f"w{size}") for size in (9, 11, 10)]
    optimizer = AdamOffload(parameters, min_offload_size=10, moment_dtype=ms.bfloat16)
    assert [str(moment.dtype) for moment in optimizer.moment1] == ["Float32", "BFloat16", "BFloat16"]
    names = [parameter.name for parameter in optimizer.get_parameters()]
    assert names == [parameter.name for parameter in AdamOffload(parameters).get_parameters()]


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
    # The gradient and the difference of the large parameter, and a few scalars.
    assert found.to_host_bytes == 4 * 3000 + 4  # and the learning rate
    assert found.to_device_bytes < 4 * 3000 + 100
