# SPDX-License-Identifier: Apache-2.0

"""Gradient accumulation, in one graph and in two functions. For `scenarios`, in a module of its own."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from nets import SHAPES, Residuals
from scenarios import FLOAT32, inputs_of_step, optimizer_for, read_log, values


def train(form, **settings):
    """Three updates, each with the sums of two batches. Returns the parameters and the states."""
    accumulate, update, cells = FORMS[form](**settings)
    for step in range(0, 6, 2):
        accumulate(*inputs_of_step(step, FLOAT32))
        update(*inputs_of_step(step + 1, FLOAT32))
    return values(*cells)


def copies(form, **settings):
    """The copies of a batch that only adds gradients up, and of one that updates."""
    accumulate, update, _ = FORMS[form](**settings)
    inputs = [Tensor(0.5, ms.float32)] * len(SHAPES)
    for _ in range(2):
        accumulate(*inputs)
        update(*inputs)
    read_log()
    accumulate(*inputs)
    without_update = read_log()
    update(*inputs)
    return without_update, read_log()


class Accumulating(nn.Cell):
    """Adds the gradients of two batches up on the device before the optimizer gets them."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.net, self.optimizer = net, optimizer
        self.weights = optimizer.parameters
        self.gradient = ops.GradOperation(get_by_list=True)
        self.sums = self.weights.clone("sum", init="zeros")
        self.add, self.assign, self.map_ = ops.AssignAdd(), ops.Assign(), ops.composite.Map()
        self.zeros = tuple(Tensor(np.zeros(w.shape, np.float32)) for w in self.weights)

    def construct(self, last, *inputs):
        gradients = self.gradient(self.net, self.weights)(*inputs)
        added = self.map_(self.add, self.sums, gradients)
        if last:
            updated = self.optimizer(ops.depend(self.sums, added))
            added = self.map_(self.assign, ops.depend(self.sums, updated), self.zeros)
        return ops.depend(True, added)


def in_one_graph(**settings):
    net = Residuals([ms.float32] * len(SHAPES))
    training = Accumulating(net, optimizer_for(net.trainable_params(), **settings))
    return lambda *inputs: training(False, *inputs), lambda *inputs: training(True, *inputs), [training]


def in_functions(**settings):
    """As the documentation shows it: one function adds gradients up, and one updates."""
    net = Residuals([ms.float32] * len(SHAPES))
    optimizer = optimizer_for(net.trainable_params(), **settings)
    sums = optimizer.parameters.clone("sum", init="zeros")
    gradients_of = ops.GradOperation(get_by_list=True)(net, optimizer.parameters)

    @ms.jit
    def accumulate(*inputs):
        for total, gradient in zip(sums, gradients_of(*inputs)):
            ops.assign_add(total, gradient)

    @ms.jit
    def update():
        optimizer(sums)
        for total in sums:
            ops.assign(total, ops.zeros_like(total))

    def last(*inputs):
        accumulate(*inputs)
        update()

    return accumulate, last, [net, optimizer]


FORMS = {"one-graph": in_one_graph, "functions": in_functions}
