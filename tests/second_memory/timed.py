# SPDX-License-Identifier: Apache-2.0

"""Training steps whose times are logged. Runs in a child process, on a second memory with a pace."""

import os
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_offload import AdamOffload, native_library

BATCH = 16


class Layers(nn.Cell):
    """Square matrix products, and the sum of squares of the last one."""

    def __init__(self, layers, width):
        super().__init__()
        self.w = ms.ParameterTuple(
            Parameter(Tensor(np.zeros((width, width), np.float32)), name=f"w{i}") for i in range(layers)
        )
        self.product = ops.MatMul()
        self.ones = Tensor(np.ones((1, BATCH), np.float32)), Tensor(np.ones((width, 1), np.float32))

    def construct(self, x):
        for w in self.w:
            x = self.product(x, w)
        return self.product(self.product(self.ones[0], x * x), self.ones[1])


def steps(layers, width, count, offload_ratio=1.0):
    """Trains, and returns the start and the end of each step, in microseconds of the log's clock."""
    native_library.load()
    os.environ["SECOND_MEMORY_HOST_LIBRARY"] = str(native_library.PATH)
    native_library.PATH = Path(os.environ["LD_PRELOAD"])  # where MindSpore finds the operation that logs
    net = Layers(layers, width)
    training = nn.TrainOneStepCell(net, AdamOffload(net.trainable_params(), offload_ratio=offload_ratio))
    x = Tensor(np.ones((BATCH, width), np.float32))
    times = []
    for _ in range(count):
        ms.runtime.synchronize()
        start = time.monotonic()
        training(x)
        ms.runtime.synchronize()
        times.append((round(start * 1e6), round(time.monotonic() * 1e6)))
    return times
