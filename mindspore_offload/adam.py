"""The optimizer cell."""

from mindspore import Parameter, ParameterTuple, Tensor, jit, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindspore_offload import checks, host_operation, state
from mindspore_offload.coefficients import Algorithm, Coefficients
from mindspore_offload.global_norm import GlobalNorm
from mindspore_offload.host_operation.stock import DeviceUpdate
from mindspore_offload.placement import on_host
from mindspore_offload.progress import Progress
from mindspore_offload.writeback import choose as choose_writeback

_is_dense = C.MultitypeFuncGraph("is_dense")
_check_gradient = C.MultitypeFuncGraph("check_gradient")
_dtype = C.MultitypeFuncGraph("dtype")
_pick = C.MultitypeFuncGraph("pick")
_shape = C.MultitypeFuncGraph("shape")
_run_bucket = C.MultitypeFuncGraph("run_bucket")
_value_at = C.MultitypeFuncGraph("value_at")
_pick_value_at = C.MultitypeFuncGraph("pick_value_at")


class AdamOffload(nn.Optimizer):
    r"""Adam that keeps its moments in host memory and runs on the host CPU; a drop-in for `mindspore.nn.AdamOffload`.

    The algorithm is Adam in the form that ends section 2 of `Adam: A Method for Stochastic Optimization
    <https://arxiv.org/abs/1412.6980>`_, where both bias corrections are folded into the step size. In step
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
    `beta1_power` and `beta2_power`. With `use_nesterov`, :math:`\beta_1 m_t + (1 - \beta_1) g_t` stands for :math:`m_t`
    in the last line.

    A float16 or bfloat16 parameter has a float32 master, the state `master`, in host memory. It is what :math:`w` is
    above; the parameter is the master rounded to nearest even. A parameter that somebody else changed since the last
    step, a loaded checkpoint for example, becomes the master first.

    Note:
        - :math:`\epsilon` is added to the root of the *uncorrected* :math:`v` ("epsilon hat"). `torch.optim.Adam` adds
          it to the corrected root; with small gradients the two differ.
        - The decay is an L2 penalty: it goes through the moments, unlike the decoupled decay of AdamW.
        - All constants are float32. :math:`1 - \beta_2` for 0.999 is then 9.9998713e-4.
        - Infinite and NaN gradients are not caught, unless `skip_nonfinite` is True.
        - Without parameter groups, parameters whose name contains "beta" or "gamma" don't decay. With groups, names
          don't matter, and a parameter decays as its group says.

    Args:
        params (Union[list[Parameter], list[dict]]): The parameters to update, of dtype float32, float16 or
            bfloat16, which may be mixed, or groups of them. A group is a dict with the keys

            - params: Required. A list of its parameters.
            - lr: Optional, in place of `learning_rate`.
            - weight_decay: Optional, in place of `weight_decay`.
            - grad_centralization: Accepted, and without effect in this optimizer.
            - order_params: Alone in a dict of its own: all parameters, in the order that the optimizer is to keep.

        learning_rate (Union[float, int, Tensor, Iterable, LearningRateSchedule]): A number or a Tensor of no dimension,
            at least 0, is fixed. Of a one-dimensional Tensor or an iterable, step i takes value i. A schedule is called
            with `global_step`, which is 0 in the first step. Default: ``1e-3`` .
        beta1 (float): The decay rate of the first moment, in (0.0, 1.0). Default: ``0.9`` .
        beta2 (float): The decay rate of the second moment, in (0.0, 1.0). Default: ``0.999`` .
        eps (float): Added to the denominator; greater than 0. Default: ``1e-8`` .
        use_locking (bool): Whether the update of a parameter and its moments is protected by a lock. The native host
            operation always is: updates of the same tensors run one after the other. MindSpore itself crashes when two
            Python threads run the same graph, so the lock is for graphs of their own that share parameters. Default:
            ``False`` .
        use_nesterov (bool): Whether to use Nesterov's accelerated gradient. Default: ``False`` .
        weight_decay (Union[float, int, Cell]): The L2 penalty, at least 0. A Cell is called with `global_step` in each
            step. Default: ``0.0`` .
        loss_scale (Union[float, Parameter]): What the loss was multiplied with; greater than 0. To be set to that of a
            `FixedLossScaleManager` whose `drop_overflow_update` is False. A Parameter of dtype float32 with one element
            is read in each step: the `scale_value` of an `amp.DynamicLossScaler`, for example, so that its gradients
            need not be unscaled before. Default: ``1.0`` .

    Keyword Args:
        host_kernel (str): What runs Adam on the host. ``"native"`` is this package's own kernel: fused, and the same
            bits for any number of threads and either writeback. ``"stock"`` is MindSpore's own operation `Adam`, with
            some others around it: slower, the same numbers within rounding, and the same bits from run to run as long
            as MindSpore uses the same number of threads. ``"auto"`` is native where the device target is CPU, stock
            elsewhere; without a usable native library it warns once and takes stock. Default: ``"auto"`` .
        writeback (str): How the result gets to the parameter. ``"in_place"``: the host writes it, for which the device
            has to be the CPU. ``"assign"``: the host returns a tensor, and the device adds it to a float32 parameter or
            puts it in the place of another. ``"auto"`` is in_place where the device target is CPU, assign elsewhere.
            The attribute of that name says which it is. Default: ``"auto"`` .
        max_grad_norm (Union[float, int, None]): The bound of the global norm, greater than 0: where the Euclidean norm
            of all gradients together, unscaled, is larger, they are multiplied with `max_grad_norm` over it, before the
            decay, as `mindspore.ops.clip_by_global_norm` does. It is a factor inside the host operation and makes no
            copies. An infinite norm turns finite gradients to 0 and infinite ones to NaN; a NaN norm clips nothing.
            Default: ``None`` , no bound.
        skip_nonfinite (bool): Whether a step is left out if the global norm is infinite or NaN. Parameters, states,
            `global_step` and the powers then stay as they are, and the state `skipped_steps`, of shape (1,) and dtype
            int32, counts the step. Default: ``False`` .
        min_offload_size (int): A number of elements. Parameters with fewer are updated on the device, by the operation
            of `nn.Adam`, and their states stay there: thousands of small transfers would take longer. Default: ``0`` ,
            all parameters are offloaded.

    With `max_grad_norm` or `skip_nonfinite`, the state `global_norm`, of shape (1,) and dtype float32, has the norm of
    the last step. It is measured on the host, and takes one more read of the gradients.

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
        TypeError: If `use_locking`, `use_nesterov` or `skip_nonfinite` is not a bool.
        TypeError: If `max_grad_norm` is neither None, float nor int, or `min_offload_size` is not an int.
        TypeError: If a parameter is not of one of the dtypes above.
        TypeError: If a gradient is not of one of its dtypes.
        TypeError: If a parameter was given another dtype or shape after the optimizer was made.
        ValueError: If `loss_scale` or `eps` is not greater than 0.
        ValueError: If `beta1` or `beta2` is not in (0.0, 1.0).
        ValueError: If `weight_decay` or `learning_rate` is less than 0.
        ValueError: If `max_grad_norm` is not greater than 0 and finite in float32.
        ValueError: If `min_offload_size` is less than 0.
        ValueError: If `host_kernel` or `writeback` is unknown.
        ValueError: If `writeback` is ``"in_place"`` and the device target is not CPU.
        ValueError: If a parameter is empty, or occurs twice outside groups.
        ValueError: If a gradient has another shape than its parameter.
        RuntimeError: If `host_kernel` is ``"native"`` and the native library can't be used; the text says why.
        RuntimeError: If a gradient is row-sparse.
        RuntimeError: If `gradients` is not a tuple of as many gradients as there are parameters.

    Supported Platforms:
        ``CPU``. On ``Ascend`` and ``GPU`` it has not been run yet; `placement_report` shows what it would do there.

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

    # Whether the weight decay bypasses the moments.
    _decoupled = False

    def __init__(
        self,
        params,
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        use_locking=False,
        use_nesterov=False,
        weight_decay=0.0,
        loss_scale=1.0,
        *,
        host_kernel="auto",
        writeback="auto",
        max_grad_norm=None,
        skip_nonfinite=False,
        min_offload_size=0,
    ):
        dynamic_scale = isinstance(loss_scale, Parameter)
        super().__init__(learning_rate, checks.reusable(params), weight_decay, 1.0 if dynamic_scale else loss_scale)
        checks.parameters(self.cls_name, self.parameters)
        checks.is_float_between(self.cls_name, "beta1", beta1, 0.0, 1.0)
        checks.is_float_between(self.cls_name, "beta2", beta2, 0.0, 1.0)
        checks.is_float_between(self.cls_name, "eps", eps, 0.0, float("inf"))
        checks.is_bool(self.cls_name, "use_locking", use_locking)
        checks.is_bool(self.cls_name, "use_nesterov", use_nesterov)
        if dynamic_scale:
            checks.dynamic_loss_scale(self.cls_name, loss_scale)
        checks.max_grad_norm(self.cls_name, max_grad_norm)
        checks.is_bool(self.cls_name, "skip_nonfinite", skip_nonfinite)
        checks.min_offload_size(self.cls_name, min_offload_size)
        self.writeback = choose_writeback(writeback, self.cls_name)
        host = host_operation.choose(host_kernel, self.writeback, self.cls_name)

        self.params = self.parameters
        self.beta1 = Tensor(beta1, mstype.float32)
        self.beta2 = Tensor(beta2, mstype.float32)
        self.eps = Tensor(eps, mstype.float32)
        self.beta1_power = state.beta_power("beta1_power")
        self.beta2_power = state.beta_power("beta2_power")
        self.moment1, self.moment2, weights = state.allocate(self.parameters)
        self.master = ParameterTuple(w for w, p in zip(weights, self.parameters) if w is not p)

        gradient_scale = 1.0 / self.loss_scale
        algorithm = Algorithm(
            use_locking,
            use_nesterov,
            self._decoupled,
            unscale=self.need_scale or dynamic_scale,
            dynamic_scale=dynamic_scale,
            clip=max_grad_norm is not None,
            skip=skip_nonfinite,
        )
        self._loss_scale = loss_scale if dynamic_scale else Tensor([1.0], mstype.float32)
        self._measure = skip_nonfinite or max_grad_norm is not None
        if self._measure:
            self.global_norm = Parameter(Tensor([0.0], mstype.float32), name="global_norm")
            norm = host.norm(len(self.parameters))
            self._global_norm = GlobalNorm(norm, max_grad_norm, gradient_scale, dynamic_scale, self.global_norm)
        skipped_steps = None
        if skip_nonfinite:
            self.skipped_steps = skipped_steps = Parameter(Tensor([0], mstype.int32), name="skipped_steps")
        self._progress = Progress(self.global_step, self.beta1_power, self.beta2_power, skipped_steps)

        # With groups, `get_lr` and `get_weight_decay` would call a schedule once a parameter; it is called once a row.
        rows, self._row_parameters, has_decay = self._coefficient_rows()
        self._coefficients = Coefficients(len(self._row_parameters), beta1, beta2, eps, gradient_scale, algorithm)
        if self.is_group_lr and self.dynamic_lr:
            self._row_rates = nn.CellList([self.learning_rate[i] for i in self._row_parameters], auto_prefix=False)
        self._no_decay = Tensor(0.0, mstype.float32)
        # Where the decay of a row is among those of the groups, or the only one, which this stands behind.
        no_decay = len(self.weight_decay) if self.is_group else 1
        self._row_decays = tuple(
            (i if self.is_group else 0) if has else no_decay for i, has in zip(self._row_parameters, has_decay)
        )
        decays = [has_decay[row] for row in rows]
        tensors = list(zip(self.parameters, weights, self.moment1, self.moment2, rows, decays))
        # Gradients are handed on in the order of the buckets' parameters: first those that are updated on the host.
        small = [parameter.size < min_offload_size for parameter in self.parameters]
        self._order = tuple(sorted(range(len(small)), key=lambda i: small[i])) if any(small) else ()
        offloaded, kept = ([t for t, is_small in zip(tensors, small) if is_small == side] for side in (False, True))
        buckets = [host.update(bucket, algorithm) for bucket in state.buckets(offloaded)]
        buckets += [DeviceUpdate(bucket, algorithm) for bucket in state.buckets(kept, start=len(offloaded))]
        self._buckets = nn.CellList(buckets, auto_prefix=False)
        self._names = tuple(parameter.name for parameter in self.parameters)
        self._dtypes = tuple(parameter.dtype for parameter in self.parameters)
        self._shapes = tuple(tuple(parameter.shape) for parameter in self.parameters)
        self._multiply, self._reshape = on_host(ops.Mul()), on_host(ops.Reshape())
        self._success = (True,) * len(self.parameters)

    @jit(backend="ms_backend")
    def construct(self, gradients):
        checks.gradients(self.cls_name, isinstance(gradients, tuple), len(gradients), len(self.parameters))
        checks.all_dense(self.cls_name, self._names, self.map_(_is_dense, gradients))
        checks.unchanged(self.cls_name, self._names, "dtype", self._dtypes, self.map_(_dtype, self.parameters))
        checks.unchanged(self.cls_name, self._names, "shape", self._shapes, self.map_(_shape, self.parameters))
        gradients = self.map_(F.partial(_check_gradient, self.cls_name), self._names, self.parameters, gradients)
        scale = self._reshape(self._loss_scale, (1,))
        clip, finite = self._no_decay, True  # not looked at
        if self._measure:
            clip, finite = self._global_norm(gradients, scale)
        # Both see global_step as it is before this step: 0 at the first.
        if self.is_group_lr and self.dynamic_lr:
            learning_rates = self.map_(F.partial(_value_at, self.global_step), self._row_rates)
        elif self.is_group_lr:
            learning_rates = self.map_(F.partial(_pick, self.learning_rate), self._row_parameters)
        else:
            learning_rates = (self.get_lr(),) * len(self._row_parameters)
        decays = self.weight_decay if self.is_group else (self.get_weight_decay(),)
        decays = (*decays, self._no_decay)
        weight_decays = self.map_(F.partial(_pick_value_at, self.global_step, decays), self._row_decays)
        beta1_power = self._multiply(self.beta1_power, self.beta1)
        beta2_power = self._multiply(self.beta2_power, self.beta2)
        coefficients = self._coefficients(learning_rates, weight_decays, beta1_power, beta2_power, clip, finite, scale)
        self._progress(self.global_step_increase_tensor, beta1_power, beta2_power, finite)
        if self._order:
            gradients = self.map_(F.partial(_pick, gradients), self._order)
        updated = self.map_(F.partial(_run_bucket, coefficients, gradients), self._buckets)
        return F.depend(self._success, updated)

    def _coefficient_rows(self):
        """Parameters that share a learning rate and a weight decay share a row of the coefficient tensor.

        Returns:
            The row of each parameter; of each row, the index of its first parameter, and whether it has a decay.
        """
        rows, firsts, decays = {}, [], []
        of_parameter = []
        for i in range(len(self.parameters)):
            decay = self.exec_weight_decay and self.decay_flags[i]
            rate_key = id(self.learning_rate[i]) if self.is_group_lr else None
            decay_key = None
            if decay and self.is_group:
                value = self.group_weight_decay[i]
                decay_key = id(value) if isinstance(value, nn.Cell) else value
            key = (rate_key, decay, decay_key)
            if key not in rows:
                rows[key] = len(rows)
                firsts.append(i)
                decays.append(decay)
            of_parameter.append(rows[key])
        return of_parameter, tuple(firsts), tuple(decays)


@_check_gradient.register("String", "String", "Tensor", "Tensor")
def _check(cls_name, name, parameter, gradient):
    checks.gradient(cls_name, name, F.shape(parameter), F.shape(gradient), F.dtype(gradient))
    return gradient


@_dtype.register("Tensor")
def _dtype_of(parameter):
    return F.dtype(parameter)


@_shape.register("Tensor")
def _shape_of(parameter):
    return F.shape(parameter)


@_is_dense.register("Tensor")
def _is(gradient):
    return True


@_is_dense.register("RowTensor")
def _is_not(gradient):
    return False


@_pick.register("Tuple", "Number")
def _pick_one(gradients, i):
    return gradients[i]


@_value_at.register("Tensor", "Function")
def _value_of_schedule(global_step, schedule):
    return schedule(global_step)


@_value_at.register("Tensor", "Tensor")
def _value_of_constant(global_step, value):
    return value


@_pick_value_at.register("Tensor", "Tuple", "Number")
def _pick_one_at(global_step, values, i):
    return _value_at(global_step, values[i])


@_run_bucket.register("Tensor", "Tuple", "Function")
def _run(coefficients, gradients, bucket):
    return bucket(coefficients, gradients)
