# SPDX-License-Identifier: Apache-2.0

"""A step: the order of the algorithm, the global norm before the updates, and the counters."""

import contextlib
import math

from mindspore import Parameter, Tensor, context, nn
from mindspore import dtype as mstype
from mindspore.ops import functional as F

from mindspore_offload import host
from mindspore_offload.distributed.cut_and_gather import Cut
from mindspore_offload.update.writeback import device_copy


class Step(nn.Cell):
    """One step, in the order of the algorithm.

    It does not refer to the optimizer: a cycle would keep the states alive until Python looks for garbage.

    Args:
        optimizer (nn.Optimizer): The optimizer, with its states.
        tensors (list[ParameterStates]): Its parameters with their states.
        check_gradients (Primitive): Refuses wrong gradients while the step is compiled.
        rows (Cell): Computes the learning rate and the weight decay of each row.
        norm (Union[Cell, None]): Measures the global norm. None: nothing depends on it.
        same_step (Union[Cell, None]): Compares the ranks that share the states. None: there is only one.
        coefficients (Cell): Packs the coefficients.
        counters (Cell): Advances the counters.
        dynamic_loss_scale (Union[Parameter, None]): The loss scale, if it is a Parameter.
        new_updates (Callable): Returns the Cells that update all parameters, and the order in which these want the
            gradients. Its argument `bound` is the largest bucket.
        kernel_sees_parameters (bool): True if the kernel copes with gradients that are Parameters which it writes, if
            all are in one bucket.
    """

    def __init__(
        self,
        optimizer,
        tensors,
        *,
        check_gradients,
        rows,
        norm,
        same_step,
        coefficients,
        counters,
        dynamic_loss_scale,
        new_updates,
        kernel_sees_parameters,
    ):
        super().__init__(auto_prefix=False)
        updates, order = new_updates()
        # A gradient that is a Parameter may be one that an update writes before it is read. In place, the native kernel
        # sees that, if it has all of them in one bucket. Buckets would save no memory: Parameters are never freed. It
        # does not see the parameters that MindSpore's operation updates on the device.
        updates_at_once = new_updates(bound=math.inf)[0] if kernel_sees_parameters else updates
        # A pipeline stage drops each operation with an input of another stage, and all that hangs on it, silently. The
        # stage of a parameter is known only while MindSpore compiles, so each parameter gets its own operation. The CPU
        # target has no stages.
        has_no_stages = context.get_context("device_target") == "CPU"
        updates_apart = updates if has_no_stages else new_updates(bound=0)[0]
        is_sharded = any(each.piece is not None for each in tensors)
        cuts = nn.CellList([Cut(each.piece) for each in tensors], auto_prefix=False) if is_sharded else None
        # Not by setattr: a Cell looks for the names of parameters first, and a net's parameter may have any name.
        self.__dict__.update(
            _params=optimizer._params,
            parameters=optimizer.parameters,
            global_step=optimizer.global_step,
            learning_rate=optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            beta1_power=optimizer.beta1_power,
            beta2_power=optimizer.beta2_power,
            assigns=optimizer.writeback == "assign",
            check_gradients=check_gradients,
            rows=rows,
            norm=norm,
            same_step=same_step,
            coefficients=coefficients,
            counters=counters,
            dynamic_loss_scale=dynamic_loss_scale,
            kernel_sees_parameters=kernel_sees_parameters,
            updates=updates,
            updates_at_once=updates_at_once,
            updates_apart=updates_apart,
            order=order,
            cuts=cuts,
            successes=(True,) * (len(tensors) - 1),
        )

    def __call__(self, gradients):
        """Compiles and runs the step as a graph of its own, in any mode.

        MindSpore notices new memory of a Parameter, as `set_data` gives it, before it runs a Cell, but not before it
        runs a function of `jit`. (Before 2.9 it also needs a Parameter among the inputs.) The gradients are separate
        inputs, because MindSpore needs quadratic time to hand over a tuple. The constant makes the inputs this step's
        own: when a cell dies, MindSpore forgets the compiled graphs of all cells that had equal inputs.
        """
        has_gradients = isinstance(gradients, tuple) and gradients
        inputs = (id(self), self.global_step, *map(_with_own_memory, gradients)) if has_gradients else (gradients,)
        return self.compile_and_run(*inputs)

    def construct(self, gradients, *separate_inputs):
        if separate_inputs:
            gradients = separate_inputs[1:]
        has_stages = self.check_gradients(self.parameters, gradients)
        updates = self.updates
        if has_stages:
            updates = self.updates_apart
        # Before `begin`: read after it, gradients that are Parameters would get a copy on the host, as described there.
        if not self.kernel_sees_parameters:
            gradients = host.map_(_apart_from_parameters, gradients)
        elif True in host.map_(_is_parameter, gradients):
            updates = self.updates_at_once
        if self.assigns:
            self.counters.begin()
        whole_gradients = gradients
        if self.cuts is not None:
            gradients = host.map_(_cut, self.cuts, gradients)
        loss_scale, clip, is_finite = None, None, None
        if self.dynamic_loss_scale is not None:
            loss_scale = host.reshape(device_copy(self.dynamic_loss_scale), (1,))
        if self.norm is not None:
            clip, is_finite = self.norm(gradients, loss_scale)
        learning_rates, weight_decays = self.rows(self.global_step, self.learning_rate, self.weight_decay)
        if self.assigns:  # a rate may be a Parameter that the device writes: see FreshValue
            learning_rates = host.map_(_fresh_rate, learning_rates)
        beta1_power = host.mul(self.beta1_power, self.beta1)
        beta2_power = host.mul(self.beta2_power, self.beta2)
        coefficients = self.coefficients(
            self.global_step, learning_rates, weight_decays, beta1_power, beta2_power, clip, is_finite, loss_scale
        )
        if self.same_step is not None:
            coefficients = self.same_step(self.global_step, beta1_power, beta2_power, coefficients, whole_gradients)
        self.counters(beta1_power, beta2_power, is_finite)
        if self.order:
            gradients = host.map_(F.partial(_pick, gradients), self.order)
        updated = host.map_(F.partial(_update, coefficients, gradients), updates)
        # One `depend` for all. In a depend, MindSpore takes a constant tuple apart in quadratic time.
        return (F.depend(True, updated), *self.successes)


def _with_own_memory(gradient):
    """Copies a view. MindSpore refuses it where an operation may write, and gradients are declared so."""
    if not isinstance(gradient, Tensor) or isinstance(gradient, Parameter):
        return gradient
    is_part = not gradient.is_contiguous() or gradient.storage_offset() > 0
    with contextlib.suppress(RuntimeError):  # MindSpore 2.7 does not know the storage on the CPU
        is_part = is_part or gradient.untyped_storage().nbytes() > gradient.nbytes
    return gradient.copy() if is_part else gradient


def _is_parameter(gradient):
    return isinstance(gradient, Parameter)


def _apart_from_parameters(gradient):
    """Copies a gradient that is a Parameter: an update may write it first, or the host not see its new value."""
    if not isinstance(gradient, Parameter):
        return gradient
    is_float32 = F.dtype(gradient) == mstype.float32
    return device_copy(gradient) if is_float32 else F.cast(gradient, mstype.float32)


def _cut(cut, gradient):
    return cut(gradient)


def _fresh_rate(rate):
    return device_copy(rate) if isinstance(rate, Tensor) else rate


def _pick(values, i):
    return values[i]


def _update(coefficients, gradients, update):
    return update(coefficients, gradients)


class GlobalNorm(nn.Cell):
    """Measures the global norm of a step's gradients, on the host.

    Args:
        norm (Cell): Returns the norm of a tuple of gradients, float32 of shape (1,).
        max_grad_norm (Union[float, None]): The bound of the norm. None: no bound.
        gradient_scale (Union[float, None]): 1 / loss_scale. None if the loss scale is a Parameter.
        global_norm (Parameter): The state that stores the norm of the unscaled gradients, of shape (1,).
    """

    def __init__(self, norm, max_grad_norm, gradient_scale, global_norm):
        super().__init__(auto_prefix=False)
        self.norm, self.global_norm = norm, global_norm
        self.gradient_scale = None if gradient_scale is None else Tensor([gradient_scale], mstype.float32)
        self.bound = None if max_grad_norm is None else Tensor([max_grad_norm], mstype.float32)
        self.one = Tensor([1.0], mstype.float32)

    def construct(self, gradients, loss_scale):
        """Returns the factor that `ops.clip_by_global_norm` would apply, and whether the norm is finite.

        Both have shape (1,). The factor is None without a bound. `loss_scale` has shape (1,) too, or is None if fixed.
        """
        gradient_scale = host.div(self.one, loss_scale) if self.gradient_scale is None else self.gradient_scale
        norm = host.mul(self.norm(gradients), gradient_scale)
        host.assign(self.global_norm, norm)
        clip = None if self.bound is None else host.div(self.bound, host.maximum(norm, self.bound))
        return clip, host.is_finite(norm)


class Counters(nn.Cell):
    """Advances the number of the step and the powers of the betas, on the host; in a skipped step `skipped_steps`.

    Args:
        global_step (Parameter): The number of steps, of shape (1,) and dtype int32.
        beta1_power, beta2_power (Parameter): The powers of the betas, of shape (1,).
        skipped_steps (Union[Parameter, None]): The number of skipped steps, as `global_step`. None: no step is skipped.
    """

    def __init__(self, global_step, beta1_power, beta2_power, skipped_steps):
        super().__init__(auto_prefix=False)
        self.global_step, self.beta1_power, self.beta2_power = global_step, beta1_power, beta2_power
        self.skipped_steps = skipped_steps
        self.zero, self.one = Tensor([0], mstype.int32), Tensor([1], mstype.int32)

    def begin(self):
        """Writes to a state before the step reads anything.

        MindSpore orders the first write on the host after all reads before it, of whatever memory. Those of the net's
        weights would so get a copy on the host, which each step refreshes.
        """
        host.assign_add(self.global_step, self.zero)

    def construct(self, beta1_power, beta2_power, is_finite):
        """Stores the powers of this step. `is_finite` is read only if steps may be skipped."""
        one = self.one
        if self.skipped_steps is not None:
            one = host.cast(is_finite, mstype.int32)
            host.assign_add(self.skipped_steps, host.sub(self.one, one))
            beta1_power = host.select(is_finite, beta1_power, self.beta1_power)
            beta2_power = host.select(is_finite, beta2_power, self.beta2_power)
        host.assign_add(self.global_step, one)
        host.assign(self.beta1_power, beta1_power)
        host.assign(self.beta2_power, beta2_power)
        return True
