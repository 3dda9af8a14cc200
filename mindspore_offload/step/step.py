# SPDX-License-Identifier: Apache-2.0

"""A step, in the order of the algorithm."""

import math

from mindspore import context, nn, ops

from mindspore_offload import host
from mindspore_offload.mindspore_private import compile_and_run, hold
from mindspore_offload.step.inputs import with_own_memory


class Step(nn.Cell):
    """One step, in the order of the algorithm.

    It does not refer to the optimizer: a cycle would keep the states alive until Python looks for garbage.

    Args:
        optimizer (nn.Optimizer): The optimizer, with its states.
        check_gradients (Primitive): Refuses wrong gradients while the step is compiled.
        inputs (Cell): Makes ready what the host reads.
        norm (Union[Cell, None]): Measures the global norm. None: nothing depends on it.
        rows (Cell): Computes the learning rate and the weight decay of each row.
        coefficients (Cell): Packs the coefficients.
        same_step (Union[Cell, None]): Compares the ranks that share the states. None: there is only one.
        counters (Cell): Advances the counters.
        new_updates (Callable): Returns the Cells that update all parameters, and the order in which these want the
            gradients. Its argument `bound` is the largest bucket.
    """

    def __init__(self, optimizer, *, new_updates, **parts):
        super().__init__(auto_prefix=False)
        updates, order = new_updates()
        # A pipeline stage drops each operation with an input of another stage, and all that hangs on it, silently. The
        # stage of a parameter is known only while MindSpore compiles, so each parameter gets its own operation. The CPU
        # target has no stages.
        has_no_stages = context.get_context("device_target") == "CPU"
        apart = updates if has_no_stages else new_updates(bound=0)[0]
        # A gradient that is a Parameter may be one that an update writes before it is read. The kernel sees that, if it
        # has all of them in one bucket. Smaller ones would save no memory: Parameters are never freed.
        at_once = updates if parts["inputs"].copies else new_updates(bound=math.inf)[0]
        held = ("parameters", "learning_rate", "weight_decay", "global_step", "beta1", "beta2", "beta1_power")
        parts.update({name: getattr(optimizer, name) for name in (*held, "beta2_power", "_params")}, order=order)
        successes = (True,) * (len(optimizer.parameters) - 1)
        hold(self, **parts, updates=updates, updates_apart=apart, updates_at_once=at_once, successes=successes)

    def __call__(self, gradients):
        """Compiles and runs the step as a graph of its own, in any mode.

        MindSpore notices new memory of a Parameter, as `set_data` gives it, before it runs a Cell, but not before it
        runs a function of `jit`. (Before 2.9 it also needs a Parameter among the inputs.) The gradients are separate
        inputs, because MindSpore needs quadratic time to hand over a tuple. The constant makes the inputs this step's
        own: when a cell dies, MindSpore forgets the compiled graphs of all cells that had equal inputs.
        """
        has_gradients = isinstance(gradients, tuple) and gradients
        inputs = (id(self), self.global_step, *map(with_own_memory, gradients)) if has_gradients else (gradients,)
        return compile_and_run(self, *inputs)

    def construct(self, gradients, *separate_inputs):
        if separate_inputs:
            gradients = separate_inputs[1:]
        has_stages = self.check_gradients(self.parameters, gradients)
        whole_gradients = self.inputs.begin(gradients)
        gradients = self.inputs.pieces(whole_gradients)
        loss_scale, clip, is_finite = self.inputs.loss_scale(), None, None
        if self.norm is not None:
            clip, is_finite = self.norm(gradients, loss_scale)
        rates, decays = self.rows(self.global_step, self.learning_rate, self.weight_decay)
        rates = self.inputs.rates(rates)
        powers = host.mul(self.beta1_power, self.beta1), host.mul(self.beta2_power, self.beta2)
        coefficients = self.coefficients(self.global_step, rates, decays, powers, clip, is_finite, loss_scale)
        if self.same_step is not None:
            coefficients = self.same_step(self.global_step, powers, coefficients, whole_gradients)
        self.counters(powers, is_finite)
        if self.order:
            gradients = host.map_(ops.partial(host.pick, gradients), self.order)
        updates = self.updates
        if has_stages:
            updates = self.updates_apart
        elif self.inputs.has_parameters(gradients):
            updates = self.updates_at_once
        updated = host.map_(ops.partial(_update, coefficients, gradients), updates)
        # One `depend` for all: see constant tuples in docs_en/contributing.rst.
        return (ops.depend(True, updated), *self.successes)


def _update(coefficients, gradients, update):
    return update(coefficients, gradients)
