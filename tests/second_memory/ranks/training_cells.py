# SPDX-License-Identifier: Apache-2.0

"""Training cells: how they hand over the gradients of micro batches, of scaled losses and of several optimizers."""

import mindspore as ms
import numpy as np
from cells import ROWS
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.wrap.cell_wrapper import _TrainGradAccuStepCell
from mindspore.nn.wrap.loss_scale import _TrainGradAccuWithLossScaleCell

SCALE = Tensor(1024.0, ms.float32)


class MicroBatches(nn.Cell):
    """The sum of the losses of micro batches, as a pipeline and gradient accumulation have it."""

    def __init__(self, net, count):
        super().__init__(auto_prefix=False)
        self.net, self.count = net, count

    def construct(self, x, y):
        loss = 0.0
        for i in range(self.count):
            loss = loss + self.net(x[i * ROWS : (i + 1) * ROWS], y[i * ROWS : (i + 1) * ROWS])
        return loss


class TwoOptimizers(nn.Cell):
    """A training step in which each of two optimizers updates a part of the weights."""

    def __init__(self, net, optimizers):
        super().__init__()  # with prefixes: both optimizers have a state `global_step`
        self.net, (self.first, self.second) = net, optimizers
        self.weights = ms.ParameterTuple((*self.first.parameters, *self.second.parameters))
        self.count = len(self.first.parameters)
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, x, y):
        loss = self.net(x, y)
        gradients = self.gradient(self.net, self.weights)(x, y)
        updated = self.first(gradients[: self.count]), self.second(gradients[self.count :])
        return ops.depend(loss, updated)


class AccumulationWithLossScale(_TrainGradAccuWithLossScaleCell):
    """MindSpore's cell, with a Parameter in place of the operations that ask an Ascend for an overflow."""

    def __init__(self, net, optimizer):
        super().__init__(net, optimizer, SCALE)
        self.overflow = Parameter(Tensor(np.zeros(1, np.float32)), "overflow", requires_grad=False)
        net.add_flags(defer_inline=False)  # which needs lazy_inline
        self.alloc_status = self.clear_before_grad = self.get_status = self.reduce_sum = self._status

    def _status(self, *inputs):
        return self.overflow


class MindFormers(nn.TrainOneStepWithLossScaleCell):
    """Hands over the gradients of micro batches as `MFPipelineWithLossScaleCell` of MindFormers 2.1 does.

    They are summed and unscaled, and an overflow on any rank skips the step.

    Where a pipeline and an `if` are in one graph, MindSpore 2.10 on GPU sometimes computes the gradients of a row of a
    micro batch wrong, with every optimizer. So the results are compared with a large tolerance.
    """

    def __init__(self, net, optimizer):
        super().__init__(net, optimizer, SCALE)
        self.count = net.micro_size
        self.accu_grads = self.weights.clone(prefix="accu_grads", init="zeros")
        self.status = Tensor([0] * 8, ms.int32)

    def construct(self, *inputs):
        loss = self.network(*inputs)
        sens = ops.ones_like(loss) * self.scale_sense / self.count
        gradients = self.grad(self.network, self.weights)(*inputs, sens)
        accumulated = ops.depend(self.accu_grads, gradients)
        gradients = self.hyper_map(ops.partial(_sum_of, self.scale_sense), gradients, accumulated)
        overflow = ops.depend(self.get_overflow_status(self.status, gradients), gradients)
        if not overflow:
            loss = ops.depend(loss, self.optimizer(gradients))
        return loss


def _sum_of(scale, gradient, accumulated):
    """Returns the sum of a gradient over the micro batches, unscaled, and sets it back."""
    accumulated = ops.depend(accumulated, gradient)
    unscaled = accumulated * (1 / scale)
    accumulated = ops.depend(accumulated, unscaled)
    return ops.depend(unscaled, ops.assign(accumulated, ops.zeros_like(accumulated)))


class Functional(nn.Cell):
    """A step in functional style, with a `PipelineGradReducer`."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer, self.reducer = optimizer, nn.PipelineGradReducer(optimizer.parameters)
        self.loss_and_gradients = ops.value_and_grad(net, None, optimizer.parameters)

    def construct(self, x, y):
        loss, gradients = self.loss_and_gradients(x, y)
        return ops.depend(loss, self.optimizer(self.reducer(gradients)))


KINDS = {
    "ordinary": nn.TrainOneStepCell,
    "micro-batches": _TrainGradAccuStepCell,
    "loss-scale": lambda net, optimizer: nn.TrainOneStepWithLossScaleCell(net, optimizer, SCALE),
    "micro-batches-loss-scale": AccumulationWithLossScale,
    "MindFormers": MindFormers,
    "functional": Functional,
}
# These divide the gradients by the number of micro batches.
AVERAGING = (None, "MindFormers")
