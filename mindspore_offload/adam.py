# SPDX-License-Identifier: Apache-2.0

"""The optimizer cell: its arguments, and the order of a step."""

import weakref
from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import Any, Literal, NoReturn, Optional, Union

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, Type, context, float32, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_offload import checks, placement, states, update
from mindspore_offload.attributes import GuardedAttributes
from mindspore_offload.distributed import parallel_mode, ranks
from mindspore_offload.errors import refuse
from mindspore_offload.formats import moment_format
from mindspore_offload.mindspore_private import forget_clones, has_hooks, hold
from mindspore_offload.net_parameters import check_frozen, check_replaced
from mindspore_offload.states.shard import exclude_from_broadcast, shard_state
from mindspore_offload.states.state import notice_foreign
from mindspore_offload.step.check_gradients import CheckGradients
from mindspore_offload.step.coefficients import Coefficients, Features
from mindspore_offload.step.counters import Counters, GlobalNorm
from mindspore_offload.step.inputs import Inputs
from mindspore_offload.step.rows import Rows
from mindspore_offload.step.step import Step
from mindspore_offload.update import writeback as writebacks


class AdamOffload(GuardedAttributes):
    r"""Adam that keeps its moments in host memory and runs on the host CPU; a drop-in for `mindspore.nn.AdamOffload`.

    The device only writes the parameters. This saves device memory, and costs time: in each step, gradients and results
    cross the link between device and host. Works in graph mode and in PyNative mode.

    The algorithm is Adam in the form at the end of section 2 of `Adam: A Method for Stochastic Optimization
    <https://arxiv.org/abs/1412.6980>`_, with both bias corrections folded into the step size. In step
    :math:`t = 1, 2, \ldots`, for each weight:

    .. math::
        \begin{array}{l}
            g_t = (g + S \lambda w_{t-1}) / S \\
            m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
            l_t = \alpha \sqrt{1 - \beta_2^t} / (1 - \beta_1^t) \\
            w_t = w_{t-1} - l_t m_t / (\sqrt{v_t} + \epsilon)
        \end{array}

    :math:`g` is the element of `gradients`, :math:`w` of `params`, :math:`m` of the state `moment1`, :math:`v` of
    `moment2`; :math:`\alpha` is `learning_rate`, :math:`\beta_1, \beta_2` are `beta1` and `beta2`, :math:`\epsilon` is
    `eps`, :math:`\lambda` is `weight_decay`, :math:`S` is `loss_scale`, and :math:`\beta_1^t, \beta_2^t` are the states
    `beta1_power` and `beta2_power`. :math:`l_t` is the step size with both bias corrections. With `use_nesterov`,
    :math:`\beta_1 m_t + (1 - \beta_1) g_t` replaces :math:`m_t` in the last line.

    A float16 or bfloat16 parameter has a float32 master weight in host memory, the state `master`. In the formula,
    :math:`w` is the master; the parameter is the master rounded to nearest even. If a parameter was changed outside the
    optimizer since the last step, for example by loading a checkpoint, the master first takes the new value.

    Note:
        - :math:`\epsilon` is added to the root of the *uncorrected* :math:`v` ("epsilon hat"). `torch.optim.Adam` adds
          it to the corrected root; with small gradients the two differ.
        - The decay is an L2 penalty: it enters the moments, unlike the decoupled decay of AdamW.
        - All constants are float32: for 0.999, :math:`1 - \beta_2` is 9.9998713e-4.
        - Infinite and NaN gradients are not detected, unless `skip_nonfinite` is True.
        - Without parameter groups, parameters whose name contains "beta" or "gamma" are not decayed. With groups,
          names don't matter: each group sets its own decay.

    Args:
        params (Union[list[Parameter], list[dict]]): The parameters to update, or groups of them. Their dtype is
            float32, float16 or bfloat16; dtypes may be mixed. A group is a dict with the keys

            - params: Required. A list of its parameters.
            - lr: Optional. A group without it uses `learning_rate`.
            - weight_decay: Optional. A group without it uses the argument `weight_decay`.
            - grad_centralization: Accepted, but has no effect in this optimizer.
            - order_params: In a separate dict: all parameters, in the order that the optimizer keeps.

        learning_rate (Union[float, int, Tensor, Iterable, LearningRateSchedule]): The step size. A number or a 0-d
            Tensor, at least 0, is fixed. A one-dimensional Tensor or an iterable has one value for each step. A
            schedule is called with `global_step`, which is 0 in the first step. Default: ``1e-3`` .
        beta1 (float): The decay rate of the first moment, in (0.0, 1.0). Default: ``0.9`` .
        beta2 (float): The decay rate of the second moment, in (0.0, 1.0). Default: ``0.999`` .
        eps (float): Added to the denominator, for numerical stability; greater than 0. Default: ``1e-8`` .
        use_locking (bool): Whether a lock protects the update of a parameter and its moments. If False, the result is
            undefined where two graphs update the same parameter at once. The native host operation always locks.
            MindSpore itself crashes if two Python threads run the same graph. Default: ``False`` .
        use_nesterov (bool): Whether to use Nesterov's accelerated gradient. Default: ``False`` .
        weight_decay (Union[float, int, Cell]): The L2 penalty, at least 0. A Cell is called with `global_step` in each
            step. Default: ``0.0`` .
        loss_scale (Union[float, Parameter]): The factor that the loss was multiplied by, greater than 0. Must equal the
            scale of a `FixedLossScaleManager` if its `drop_overflow_update` is False. A float32 Parameter with one
            element, such as the `scale_value` of an `amp.DynamicLossScaler`, is read in each step; the gradients need
            not be unscaled before. Default: ``1.0`` .

    Keyword Args:
        host_kernel (str): The implementation of Adam on the host. ``"native"`` is this package's fused kernel. Its
            results are the same bits for any number of threads and either writeback. ``"stock"`` is MindSpore's own
            operation `Adam` with some others around it. It is slower, and its results agree within rounding; they are
            the same bits in every run if MindSpore uses the same number of threads. It is refused if the device target
            is not CPU. ``"auto"`` is native on every device target. If the native library can't be used, it warns once
            and falls back to stock, on the CPU only. Default: ``"auto"`` .
        writeback (str): The method that writes the result to the parameter. With ``"in_place"``, the host writes the
            parameter; the device target must be CPU. With ``"assign"``, the host returns a tensor, which the device
            adds to a float32 parameter or assigns to a 16-bit one. ``"auto"`` is in_place if the device target is CPU,
            else assign. The attribute `writeback` holds the method in use. Default: ``"auto"`` .
        max_grad_norm (Union[float, int, None]): The largest global norm, greater than 0. If the Euclidean norm of all
            unscaled gradients exceeds it, they are multiplied by `max_grad_norm` / norm before the decay, as by
            `mindspore.ops.clip_by_global_norm`. This is a factor inside the host operation; the gradients are not
            copied. An infinite norm turns finite gradients into 0 and infinite ones into NaN; a NaN norm clips nothing.
            Default: ``None`` , no clipping.
        skip_nonfinite (bool): Whether to skip steps whose global norm is infinite or NaN. A skipped step leaves the
            parameters, their states, `global_step` and the powers of the betas unchanged. The state `skipped_steps`, of
            shape (1,) and dtype int32, counts it. Default: ``False`` .
        min_offload_size (int): Parameters with fewer elements are updated on the device, by the operation of `nn.Adam`,
            and keep their states there, because thousands of small transfers would take longer. Default: ``0`` , all
            parameters are offloaded.
        offload_ratio (float): The share of the states on the host, in [0.0, 1.0], counted in elements of parameters.
            The rest stays on the device, where the operation of `nn.Adam` updates it: a step is shorter, and the device
            needs memory for these states. Whole parameters stay, the smallest first, and of equal ones the first, until
            the share is as close to `offload_ratio` as this order allows. Those below `min_offload_size` stay in any
            case. The attribute `offload_ratio` holds the share that was reached. Checkpoints don't depend on it,
            and results agree within rounding. Default: ``1.0`` , all parameters are offloaded.
        moment_dtype (mindspore.dtype): The dtype of the moments, ``mindspore.float32``, ``mindspore.bfloat16`` or
            ``mindspore.uint8``. bfloat16 halves their memory, to 4 bytes a parameter; uint8 quarters it, to 2.03 bytes,
            as codes of 8 bits in blocks of 256 with a float32 scale. They are rounded stochastically, so that they keep
            their mean; the random bits depend only on the step, the name of the parameter, without a prefix that all
            names share, and the element. Needs the native host operation. Moments on the device stay float32. With
            uint8, so do those of parameters with fewer than 4,096 elements or fewer than two dimensions.
            Default: ``mindspore.float32`` .
        shard_states (bool): Whether the ranks of a data-parallel training share the states. Each rank then holds,
            updates and saves one piece of each state with at least 16,384 elements, and the device gathers the results
            (ZeRO stage 1, Rajbhandari et al., `arXiv:1910.02054 <https://arxiv.org/abs/1910.02054>`_, section 5.1). The
            weights have the same bits as with whole states. Needs `mindspore.communication.init` and the native host
            operation. With a single rank, states are whole. States on the device are whole on every rank.
            Default: ``False`` .

    With `max_grad_norm` or `skip_nonfinite`, the state `global_norm`, of shape (1,) and dtype float32, has the norm of
    the last step. The host measures it, which needs one more pass over the gradients.

    Inputs:
        - **gradients** (tuple[Tensor]) - The gradients of `params`, in their order and shapes, of dtype float32,
          float16 or bfloat16.

    Outputs:
        tuple[bool], ``True`` for each parameter.

    Raises:
        TypeError: If `learning_rate` is not one of int, float, Tensor, Iterable, LearningRateSchedule.
        TypeError: If an element of `params` is neither Parameter nor dict.
        TypeError: If `beta1`, `beta2` or `eps` is not a float.
        TypeError: If `loss_scale` is neither a float nor a Parameter of float32 with one element.
        TypeError: If `weight_decay` is neither float, int nor Cell.
        TypeError: If `learning_rate`, `weight_decay` or `loss_scale` is or holds text or a complex number.
        TypeError: If `use_locking`, `use_nesterov`, `skip_nonfinite` or `shard_states` is not a bool.
        TypeError: If `max_grad_norm` is neither None, float nor int, or `min_offload_size` is not an int.
        TypeError: If `offload_ratio` is neither a float nor an int.
        TypeError: If the dtype of a parameter is none of those above.
        TypeError: If a parameter is bfloat16 and the device target is GPU.
        TypeError: If the dtype of a gradient is none of those above.
        TypeError: If the dtype or the shape of a parameter has changed since the optimizer was built.
        TypeError: If a keyword is that of another optimizer, such as lr or betas.
        TypeError: If a subclass overrides `get_lr`, `get_weight_decay`, `decay_weight`, `scale_grad`,
            `gradients_centralization` or `flatten_gradients`: no step calls them.
        TypeError: If the optimizer is copied by ``copy.deepcopy``, or pickled.
        ValueError: If `loss_scale` or `eps` is not greater than 0.
        ValueError: If `beta1` or `beta2` is not in (0.0, 1.0).
        ValueError: If `weight_decay` or `learning_rate` is less than 0.
        ValueError: If `learning_rate`, `weight_decay`, `loss_scale`, `beta1`, `beta2` or `eps`, also in a list or a
            group, is a number that float32 does not hold: it would be 0, 1 or infinite.
        ValueError: If `max_grad_norm` is not greater than 0 and finite in float32.
        ValueError: If `min_offload_size` is less than 0, or `offload_ratio` is not in [0.0, 1.0].
        ValueError: If `host_kernel` or `writeback` is unknown.
        ValueError: If `moment_dtype` is neither float32, bfloat16 nor uint8.
        ValueError: If `host_kernel` is ``"stock"`` while `moment_dtype` is not float32 or `shard_states` is True.
        ValueError: If `shard_states` is True and the ranks have other parameters, values of them, or arguments.
        ValueError: If `writeback` is ``"in_place"`` and the device target is not CPU.
        ValueError: If a parameter is empty, or occurs twice outside groups.
        ValueError: If a frozen parameter (its `requires_grad` is False) has a weight decay.
        ValueError: If the net has another Parameter in the place of one of `params`.
        ValueError: If a parameter has the name of an attribute or a state of the optimizer.
        ValueError: If a gradient has another shape than its parameter.
        ValueError: If what is assigned to `learning_rate` is not one number of at least 0.
        KeyError: If a group has an unknown key.
        AttributeError: If `beta1`, `beta2`, `eps`, `loss_scale`, `use_nesterov`, `writeback`, `offload_ratio` or a
            state is assigned to, or `weight_decay` after the first step.
        AttributeError: If `learning_rate` is assigned to, although it is a schedule or that of groups.
        NotImplementedError: If `target` is assigned to.
        RuntimeError: If `host_kernel` is ``"native"``, `moment_dtype` is not float32 or `shard_states` is True, and the
            native library can't be used; the message says why.
        RuntimeError: If `shard_states` is True and the communication between ranks is not initialized, or the
            environment variable MS_ENABLE_TFT lets MindSpore restore a rank from another one.
        RuntimeError: If `shard_states` is True and the ranks are at different steps, or compute a step with other
            coefficients, parameters or gradients.
        RuntimeError: If `host_kernel` is ``"stock"``, or falls back to it, and the device target is not CPU.
        RuntimeError: If the parallel mode is semi_auto_parallel or auto_parallel, and `max_grad_norm`, `skip_nonfinite`
            or `shard_states` is set.
        RuntimeError: If the device target is Ascend and the jit level is O2.
        RuntimeError: If a parameter is in two groups.
        RuntimeError: On the CPU, if a list of learning rates has no value for a step.
        RuntimeError: If a gradient is row-sparse.
        RuntimeError: If `gradients` is not a tuple with one gradient for each parameter.

    Supported Platforms:
        ``CPU``. It has not been run on a real ``GPU`` or ``Ascend`` yet; `placement_report` shows the placement there.

    Examples:
        >>> import mindspore as ms
        >>> from mindspore import nn
        >>> from mindspore_offload import AdamOffload
        >>>
        >>> net = nn.Dense(3, 2)
        >>> # One learning rate and one weight decay for all parameters:
        >>> optimizer = AdamOffload(net.trainable_params(), learning_rate=0.01, weight_decay=1e-4)
        >>> # Groups of parameters:
        >>> groups = [{"params": [net.weight], "weight_decay": 0.01}, {"params": [net.bias], "lr": 0.1}]
        >>> optimizer = AdamOffload(groups, learning_rate=0.01)
        >>> model = ms.Model(net, nn.MSELoss(), optimizer)
    """

    _decoupled = False  # the weight decay goes through the moments

    @checks.explains_keywords
    def __init__(
        self,
        params: Union[Iterable[Parameter], Iterable[dict[str, Any]]],
        learning_rate: Union[float, Tensor, Iterable[float], LearningRateSchedule] = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Union[float, nn.Cell] = 0.0,
        loss_scale: Union[float, Parameter] = 1.0,
        *,
        host_kernel: Literal["auto", "native", "stock"] = "auto",
        writeback: Literal["auto", "in_place", "assign"] = "auto",
        max_grad_norm: Optional[float] = None,
        skip_nonfinite: bool = False,
        min_offload_size: int = 0,
        offload_ratio: float = 1.0,
        moment_dtype: Type = float32,
        shard_states: bool = False,
    ) -> None:
        params, learning_rate = checks.plain(params), checks.plain(learning_rate)
        weight_decay, loss_scale = checks.plain(weight_decay), checks.plain(loss_scale)
        given = dict(locals())  # by name: they are checked, compared between ranks, and built into the step
        del given["self"], given["__class__"]
        name, is_dynamic = type(self).__name__, isinstance(loss_scale, Parameter)
        checks.check_arguments(name, given)
        super().__init__(learning_rate, params, weight_decay, 1.0 if is_dynamic else loss_scale)
        checks.check_parameters(name, self.parameters)
        parallel_mode.check_arguments(name, given)
        self.writeback: str = writebacks.choose(writeback, name)
        operation = update.choose(host_kernel, name, moment_dtype, shard_states)
        checks.check_device(name, is_stock=operation is update.stock)
        world = ranks.of_this_process(name) if shard_states else ranks.ALONE

        rows = Rows(self)
        check_frozen(name, self.parameters, rows.has_decay)
        if world.size > 1:
            rates, decay = self.learning_rate, self.weight_decay  # those of all groups
            arguments = {**given, "params": rows.of_parameter, "learning_rate": rates, "weight_decay": decay}
            ranks.check_same(name, self.parameters, arguments)
        slots = self._add_states(rows, world, given)
        self._dynamic_loss_scale = loss_scale if is_dynamic else None  # a Parameter is saved with the states
        self._add_step(slots, rows, operation, given)

    def _add_states(self, rows: Rows, world: ranks.World, given: dict[str, Any]) -> list[states.ParameterStates]:
        """Makes the states attributes. Returns the `ParameterStates` of the parameters."""
        sizes = [parameter.size for parameter in self.parameters]
        is_on_device = placement.kept_on_device(sizes, given["min_offload_size"], given["offload_ratio"])
        self.offload_ratio: float = placement.offloaded_share(sizes, is_on_device)
        # Registered before the other states, and so loaded before them. In a tuple, it has its own name in a cell that
        # holds this one, not that of the attribute.
        self._shard_state = ParameterTuple([shard_state(world)] if world.size > 1 else [])
        keys = states.keys_of([parameter.name for parameter in self.parameters])
        slots = [
            states.allocate(parameter, given["moment_dtype"], world, *each)
            for parameter, *each in zip(self.parameters, keys, rows.of_parameter, rows.has_decay, is_on_device)
        ]
        # The net may live longer, and its parameters list the states.
        states_of_parameters = [state for each in slots for state in each.states]
        weakref.finalize(self, forget_clones, self.parameters, states_of_parameters).atexit = False
        self.params: ParameterTuple = self.parameters
        self.global_step: Parameter = states.counter("global_step", 0, np.int32)
        self.beta1_power: Parameter = states.counter("beta1_power", 1, np.float32)
        self.beta2_power: Parameter = states.counter("beta2_power", 1, np.float32)
        self.moment1: ParameterTuple = ParameterTuple(each.moment1 for each in slots)
        self.moment2: ParameterTuple = ParameterTuple(each.moment2 for each in slots)
        self.master: ParameterTuple = ParameterTuple(each.master for each in slots if each.master is not None)
        skips, clips = given["skip_nonfinite"], given["max_grad_norm"] is not None
        self.global_norm: Optional[Parameter] = states.counter("global_norm", 0, np.float32) if clips or skips else None
        self.skipped_steps: Optional[Parameter] = states.counter("skipped_steps", 0, np.int32) if skips else None
        return slots

    def _add_step(
        self, slots: list[states.ParameterStates], rows: Rows, operation: ModuleType, given: dict[str, Any]
    ) -> None:
        """Adds the Cell that is a step, and completes the attributes."""
        self.beta1: Tensor = Tensor(given["beta1"], float32)
        self.beta2: Tensor = Tensor(given["beta2"], float32)
        self.eps: Tensor = Tensor(given["eps"], float32)
        scale, loss_scale, max_grad_norm = 1.0 / self.loss_scale, self._dynamic_loss_scale, given["max_grad_norm"]
        is_dynamic, norm = loss_scale is not None, None
        if self.global_norm is not None:
            norm = GlobalNorm(operation.Norm(slots), max_grad_norm, None if is_dynamic else scale, self.global_norm)
        unscales, rounds = is_dynamic or self.need_scale, moment_format(given["moment_dtype"]).is_stochastic
        clips, kinds = max_grad_norm is not None, (given["use_locking"], given["use_nesterov"], self._decoupled)
        features = Features(*kinds, unscales, clips, given["skip_nonfinite"], rounds)
        # Not with `self`: a reference cycle would keep the states until the garbage collector runs.
        check_states = partial(notice_foreign, self.cls_name, self.global_step, self.beta1_power, self.moment1)
        check_mode = partial(parallel_mode.check_arguments, self.cls_name, given)
        check_net = partial(check_replaced, self.cls_name, self.parameters)
        copies = operation is update.stock or self.writeback == "assign" or any(slot.is_on_device for slot in slots)
        step = Step(
            self,
            check_gradients=CheckGradients(self.cls_name, self.parameters, check_mode, check_states, check_net),
            inputs=Inputs(slots, self.writeback == "assign", copies, loss_scale, self.global_step),
            norm=norm,
            rows=rows,
            coefficients=Coefficients(rows.count, given["beta1"], given["beta2"], given["eps"], scale, features),
            same_step=ranks.SameStep(self.parameters, rows.count) if self._shard_state else None,
            counters=Counters(self.global_step, self.beta1_power, self.beta2_power, self.skipped_steps),
            new_updates=partial(update.cells, slots, operation, features, self.writeback),
        )
        hold(self, _step=step)  # no child, which a user could cast, recompute or list
        self.finish_attributes()
        if self._shard_state:
            exclude_from_broadcast(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        must = "not be copied, because the copy would update parameters that no net has"
        cure = "copy the net, make a new optimizer for it, and load the states with mindspore.load_param_into_net"
        refuse(TypeError, self.cls_name, "optimizer", must, cure=cure)

    def __call__(self, gradients: tuple[Tensor, ...]) -> tuple[bool, ...]:
        is_plain = type(self).construct is AdamOffload.construct and not has_hooks(self)
        if is_plain and context.get_context("mode") == context.GRAPH_MODE:
            return self._step(gradients)
        return super().__call__(gradients)

    def construct(self, gradients):  # type: ignore[no-untyped-def]
        return self._step(gradients)
