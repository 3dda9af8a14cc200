# SPDX-License-Identifier: Apache-2.0

"""Nets whose arithmetic gives the same bits on any device: every operation is elementwise, and none is fused."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

# Different sizes, so that a copy's bytes tell the tensor. Names with "beta" don't decay, unless there are groups.
SHAPES = {"first.weight": (40, 7), "first.beta": (129,), "second.weight": (33, 20), "scale": ()}
# The largest bytes of a scalar, a coefficient table or a state without the parameter's shape: no tensor is as small.
SMALL = 200


class Residuals(nn.Cell):
    """The squares of w * x - 1 for each parameter w. `dtypes` are those of the parameters, which may be mixed."""

    def __init__(self, dtypes, prefix=""):
        super().__init__()
        random = np.random.default_rng(1)
        self.w = ms.ParameterTuple(
            Parameter(Tensor(random.standard_normal(shape).astype(np.float32)).astype(dtype), name=prefix + name)
            for (name, shape), dtype in zip(SHAPES.items(), dtypes)
        )
        self.map_ = ops.composite.Map()

    def construct(self, *inputs):
        return self.map_(_square, self.w, inputs)


def _square(w, x):
    difference = w * x - 1
    return difference * difference


class TrainingCell(nn.Cell):
    """A training step: gradients, then the optimizer, as in nn.TrainOneStepCell, for a net with several outputs."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.net, self.optimizer = net, optimizer
        self.weights = optimizer.parameters
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, *inputs):
        return self.optimizer(self.gradient(self.net, self.weights)(*inputs))


class MatrixNet(nn.Cell):
    """Two layers and the sum of squared errors, of matrix products and elementwise operations only."""

    def __init__(self):
        super().__init__()
        random = np.random.default_rng(2)
        self.hidden = Parameter(Tensor(random.standard_normal((6, 5)).astype(np.float32)), name="hidden")
        self.bias = Parameter(Tensor(random.standard_normal((8, 5)).astype(np.float32)), name="bias")
        self.head = Parameter(Tensor(random.standard_normal((5, 2)).astype(np.float32)), name="head")
        self.product = ops.MatMul()
        self.ones = Tensor(np.ones((1, 8), np.float32)), Tensor(np.ones((2, 1), np.float32))

    def construct(self, x, y):
        error = self.product(self.product(x, self.hidden) + self.bias, self.head) - y
        return self.product(self.product(self.ones[0], error * error), self.ones[1])
