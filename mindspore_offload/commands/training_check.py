# SPDX-License-Identifier: Apache-2.0

"""Real training steps of a small net, compared with Adam in float64."""

import warnings

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload
from mindspore_offload.commands import oracle
from mindspore_offload.errors import one_line
from mindspore_offload.formats import ELEMENT_TYPES

SHAPE = (37, 111)  # large enough for codes, and no multiple of a vector's length
SIZE = SHAPE[0] * SHAPE[1]
SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.01, "loss_scale": 1024.0}


class Product(nn.Cell):
    """A net of one weight, whose gradient is its input. MindSpore 2.7.0 can't multiply bfloat16 on the CPU device."""

    def __init__(self, weight):
        super().__init__()
        self.weight = Parameter(weight, name="weight")

    def construct(self, inputs):
        return (self.weight.astype(ms.float32) * inputs.astype(ms.float32)).sum()


def failures(host_kernel, writeback, moment_dtype):
    """Tries steps with these arguments of the optimizer. Returns the faults by dtype, empty if there are none."""
    found = {}
    for dtype in ELEMENT_TYPES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # doctor has reported a library that can't be used
                error = error_of_steps(dtype, host_kernel, writeback, moment_dtype)
        except Exception as exception:
            found[dtype] = one_line(exception)
        else:
            if error > 1:
                found[dtype] = f"the weights are off by {error:.3g} times the allowed error"
    return found


def error_of_steps(dtype, host_kernel, writeback, moment_dtype):
    """Returns the worst error of three steps, in units of what float32 arithmetic and rounded moments explain."""
    ms.set_context(mode=ms.GRAPH_MODE)
    start = _rounded(np.linspace(-1, 1, SIZE), dtype)
    inputs = [_rounded(np.roll(np.linspace(-2, 2, SIZE), 100 * i), dtype) for i in range(3)]
    net = Product(start)
    optimizer = AdamOffload(
        net.trainable_params(),
        **SETTINGS,
        host_kernel=host_kernel,
        writeback=writeback,
        moment_dtype=getattr(ms, moment_dtype),
    )
    train = nn.TrainOneStepCell(net, optimizer, sens=SETTINGS["loss_scale"])
    for value in inputs:
        train(value)
    scaled = [_float64(value) * SETTINGS["loss_scale"] for value in inputs]
    expected, slack = oracle.adam_and_slack(_float64(start), scaled, **SETTINGS, moment_dtype=moment_dtype)
    return oracle.worst_error(_float64(net.weight), expected, dtype, slack=slack)


def _rounded(values, dtype):
    return Tensor(values.reshape(SHAPE), ms.float32).astype(getattr(ms, dtype))


def _float64(tensor):
    return tensor.astype(ms.float32).asnumpy().astype(np.float64)
