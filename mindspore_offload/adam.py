"""The optimizer cell."""

from mindspore import Parameter, Tensor, jit, nn
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindspore_offload import host_operation, state
from mindspore_offload.coefficients import Coefficients

_run_bucket = C.MultitypeFuncGraph("run_bucket")


class AdamOffload(nn.Optimizer):
    r"""TODO"""

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
    ):
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        self._check_float("beta1", beta1, 0.0, 1.0)
        self._check_float("beta2", beta2, 0.0, 1.0)
        self._check_float("eps", eps, 0.0, float("inf"))
        self._check_bool("use_locking", use_locking)
        self._check_bool("use_nesterov", use_nesterov)
        update = host_operation.choose(host_kernel, self.cls_name)

        self.params = self.parameters
        self.beta1 = Tensor(beta1, mstype.float32)
        self.beta2 = Tensor(beta2, mstype.float32)
        self.eps = Tensor(eps, mstype.float32)
        self.beta1_power = Parameter(Tensor([1.0], mstype.float32), name="beta1_power")
        self.beta2_power = Parameter(Tensor([1.0], mstype.float32), name="beta2_power")
        self.moment1 = state.zero_pages(self.parameters, "moment1")
        self.moment2 = state.zero_pages(self.parameters, "moment2")

        rows, self._row_parameters, self._row_decays = self._coefficient_rows()
        self._coefficients = Coefficients(
            len(self._row_parameters), beta1, beta2, eps, 1.0 / self.loss_scale, use_nesterov
        )
        self._no_decay = Tensor(0.0, mstype.float32)
        decays = [self._row_decays[row] for row in rows]
        self._buckets = nn.CellList(
            [
                update(bucket, use_locking, use_nesterov, self.need_scale)
                for bucket in state.buckets(self.parameters, self.moment1, self.moment2, rows, decays)
            ],
            auto_prefix=False,
        )
        self._success = (True,) * len(self.parameters)

    @jit(backend="ms_backend")
    def construct(self, gradients):
        # Both see global_step as it is before this step: 0 at the first.
        learning_rates = self._row_learning_rates()
        weight_decays = self._row_weight_decays()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        beta1_power = self.beta1_power * self.beta1
        self.beta1_power = beta1_power
        beta2_power = self.beta2_power * self.beta2
        self.beta2_power = beta2_power
        coefficients = self._coefficients(learning_rates, weight_decays, beta1_power, beta2_power)
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

    def _row_learning_rates(self):
        """The learning rate of this step for each row: `get_lr`, without calling a schedule once a parameter."""
        if not self.is_group_lr:
            return (self.get_lr(),) * len(self._row_parameters)
        rates = ()
        for i in self._row_parameters:
            rate = self.learning_rate[i]
            if self.dynamic_lr:
                rate = rate(self.global_step)
            rates += (rate,)
        return rates

    def _row_weight_decays(self):
        """The weight decay of this step for each row, times loss_scale: `get_weight_decay`, likewise."""
        decays = ()
        for i, has_decay in zip(self._row_parameters, self._row_decays):
            decay = self._no_decay
            if has_decay and self.is_group:
                decay = self.weight_decay[i]
                if self.dynamic_decay_flags[i]:
                    decay = decay(self.global_step)
            elif has_decay:
                decay = self.get_weight_decay()
            decays += (decay,)
        return decays

    def _check_float(self, name, value, low, high):
        if not isinstance(value, float):
            raise TypeError(
                f"For '{self.cls_name}', the argument '{name}' must be a float, "
                f"but got {value!r} of type {type(value).__name__}."
            )
        if not low < value < high:
            raise ValueError(
                f"For '{self.cls_name}', the argument '{name}' must be in the range ({low}, {high}), but got {value}."
            )

    def _check_bool(self, name, value):
        if not isinstance(value, bool):
            raise TypeError(
                f"For '{self.cls_name}', the argument '{name}' must be a bool, "
                f"but got {value!r} of type {type(value).__name__}."
            )


@_run_bucket.register("Tensor", "Tuple", "Function")
def _run(coefficients, gradients, bucket):
    return bucket(coefficients, gradients)
