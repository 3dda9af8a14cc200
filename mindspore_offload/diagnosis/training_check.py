# SPDX-License-Identifier: Apache-2.0

"""Real training steps of a small net, compared with those of `nn.Adam`."""

import functools
import warnings

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload
from mindspore_offload.errors import one_line
from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS

SHAPE = (37, 111)  # large enough for codes, and no multiple of a vector's length
SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "loss_scale": 1024.0}

# Weights and gradients have seven bits, so every dtype holds them and one `nn.Adam` answers for all. The gradients of a
# weight keep their sign from step to step, so that the error of rounded moments is bounded by their learning rate.
_INDICES = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE)
WEIGHTS = (_INDICES % 128 - 64) / 64
GRADIENTS = [factor * (-1) ** _INDICES * (32 + _INDICES % 96) / 64 for factor in (1.0, 0.5, 2.0)]


class Product(nn.Cell):
    """A net of one weight, whose gradient is its input. MindSpore 2.7.0 can't multiply bfloat16 on the CPU device."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = Parameter(Tensor(WEIGHTS, dtype), name="weight")

    def construct(self, inputs):
        return (self.weight.astype(ms.float32) * inputs.astype(ms.float32)).sum()


def failures(host_kernel="auto", writeback="auto", moment_dtype="float32"):
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
    arguments = {"host_kernel": host_kernel, "writeback": writeback, "moment_dtype": getattr(ms, moment_dtype)}
    # Both moments are rounded once before the second update and twice before the third. A unit in both moves a weight
    # by 1.5 units of the learning rate: together 4.5, and for the coarsest moments, whose squares count too, below 6.
    slack = 6 * MOMENT_FORMATS[moment_dtype].unit * SETTINGS["learning_rate"]
    return worst_error(_trained(dtype, AdamOffload, **arguments), _expected(), dtype, slack=slack)


@functools.cache
def _expected():
    return _trained("float32", nn.Adam)


def _trained(dtype, optimizer_class, **arguments):
    """Returns the weights after a step for each of the gradients."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Product(getattr(ms, dtype))
    optimizer = optimizer_class(net.trainable_params(), **SETTINGS, **arguments)
    train = nn.TrainOneStepCell(net, optimizer, sens=SETTINGS["loss_scale"])
    for gradient in GRADIENTS:
        train(Tensor(gradient, getattr(ms, dtype)))
    return net.weight.astype(ms.float32).asnumpy()


def worst_error(actual, expected, dtype, roundings=1, slack=0.0):
    """Returns the largest error of an element, in units of the allowed error.

    Allowed are `slack`, 1e-6 for float32 arithmetic, and half a unit of `dtype` for each time that the value was
    rounded to it.
    """
    expected = np.asarray(expected, np.float64)
    allowed = slack + 1e-6 * np.maximum(1, np.abs(expected))
    if dtype != "float32":
        exponent = np.maximum(np.frexp(np.abs(expected))[1] - 1, -14)
        allowed = allowed + roundings * np.ldexp(0.5, exponent - ELEMENT_TYPES[dtype].fraction_bits)
    errors = np.abs(np.asarray(actual, np.float64) - expected) / allowed
    return errors.max() if np.isfinite(errors).all() else np.inf
