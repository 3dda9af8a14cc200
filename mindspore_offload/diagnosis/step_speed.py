# SPDX-License-Identifier: Apache-2.0

"""Times a step of the optimizer where a training step runs it: inside a graph."""

import statistics
import time

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindspore_offload import AdamOffload
from mindspore_offload.planning import memory_speed

SHAPES = ((2048, 2048),) * 4
PARAMS = sum(rows * columns for rows, columns in SHAPES)
BYTES = 16 * PARAMS  # weight, gradient and moments
STEPS = 7


class Step(nn.Cell):
    """Runs an optimizer on gradients that the graph holds, as that of a training step does."""

    def __init__(self, optimizer, gradients):
        super().__init__(auto_prefix=False)
        self.optimizer, self.gradients = optimizer, ParameterTuple(gradients)

    def construct(self):
        return self.optimizer(self.gradients)


def seconds_of_a_step(offload_ratio=1.0):
    """Returns the median time of a step of `PARAMS` float32 parameters."""
    ms.set_context(mode=ms.GRAPH_MODE)
    parameters, gradients = (
        [Parameter(Tensor(np.ones(shape, np.float32)), name=f"{name}{i}") for i, shape in enumerate(SHAPES)]
        for name in ("weight", "gradient")
    )
    step = Step(AdamOffload(parameters, offload_ratio=offload_ratio), gradients)
    seconds = []
    for _ in range(2 + STEPS):  # the first two compile, and allocate
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def parts_of_a_step(ratio, total, without_offloading):
    """Returns the parts of a step of `total` seconds on an accelerator: host, device, and what is left of it.

    The time of the host is that of the kernel alone, over as many parameters. The time of the device is that of a step
    without offloading, in the share of the parameters that stay there.
    """
    host = ratio * memory_speed.seconds_of_a_step(PARAMS)
    device = (1 - ratio) * without_offloading
    return host, device, total - host - device
