# SPDX-License-Identifier: Apache-2.0

"""Trains two nets with two optimizers in one cell, as a GAN does. As a program, it continues in a new process."""

import sys

import mindspore as ms
import numpy as np
import resume
from mindspore import Parameter, Tensor, nn, ops
from nets import parameters_of

from mindspore_offload import AdamOffload


class Scale(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.linspace(-1, 1, 5).astype(np.float32)))

    def construct(self, inputs):
        return (self.weight * inputs).sum()


class Adversaries(nn.Cell):
    """A step of two nets: the second one learns from the output of the first one."""

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = Scale(), Scale()
        self.generator_optimizer = AdamOffload(self.generator.trainable_params(), 0.1)
        self.discriminator_optimizer = AdamOffload(self.discriminator.trainable_params(), 0.2)
        self.generator_gradients = ms.value_and_grad(self.generator, None, self.generator_optimizer.parameters)
        self.discriminator_gradients = ms.value_and_grad(
            self.discriminator, None, self.discriminator_optimizer.parameters
        )

    def construct(self, inputs):
        generated, gradients = self.generator_gradients(inputs)
        loss, other_gradients = self.discriminator_gradients(inputs * generated)
        updated = self.generator_optimizer(gradients), self.discriminator_optimizer(other_gradients)
        return ops.depend(loss, updated)


def names(cell):
    return [parameter.name for parameter in cell.get_parameters()]


def train(cell, steps):
    """Takes `steps` steps and returns all values. The inputs depend on the number of the step."""
    for _ in range(steps):
        random = np.random.default_rng(int(cell.generator_optimizer.global_step.asnumpy()[0]))
        cell(Tensor(random.standard_normal(5).astype(np.float32)))
    return parameters_of(cell)


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    checkpoint, result, more = sys.argv[1:]
    continued = Adversaries()
    assert resume.load(continued, checkpoint) == []
    np.savez(result, **train(continued, int(more)))
