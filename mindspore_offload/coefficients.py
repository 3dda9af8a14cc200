"""The coefficient tensor: all that a step of Adam needs to know beside the tensors, computed once a step."""

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindspore_offload.placement import on_host

# The columns of the coefficient tensor, in the order of `struct AdamCoefficients` in csrc/adam.h, which explains them.
COLUMNS = ("learning_rate", "weight_decay", "beta1", "beta2", "eps", "gradient_scale", "nesterov")


class Coefficients(nn.Cell):
    """Packs the coefficients of one step into a float32 tensor of shape (rows, len(COLUMNS)), on the host.

    A row serves all parameters that share a learning rate and a weight decay.

    Args:
        rows (int): The number of rows.
        beta1, beta2, eps, gradient_scale (float): As in the update; `gradient_scale` is 1 / loss_scale.
        nesterov (bool): Whether the update looks ahead.
    """

    def __init__(self, rows, beta1, beta2, eps, gradient_scale, nesterov):
        super().__init__(auto_prefix=False)
        constants = np.array([beta1, beta2, eps, gradient_scale, nesterov], np.float32)
        self.constants = Tensor(np.tile(constants, (rows, 1)))
        self.one = Tensor(1.0, mstype.float32)
        self.rate_shape = (rows, 1)
        self.cast, self.reshape = on_host(ops.Cast()), on_host(ops.Reshape())
        self.sub, self.mul, self.div = on_host(ops.Sub()), on_host(ops.Mul()), on_host(ops.Div())
        self.sqrt, self.stack, self.concat = on_host(ops.Sqrt()), on_host(ops.Stack()), on_host(ops.Concat(1))

    def construct(self, learning_rates, weight_decays, beta1_power, beta2_power):
        """learning_rates, weight_decays: tuples of one scalar a row. beta1_power, beta2_power: of this step, (1,)."""
        correction = self.div(self.sqrt(self.sub(self.one, beta2_power)), self.sub(self.one, beta1_power))
        return self.concat(
            (self.mul(self._column(learning_rates), correction), self._column(weight_decays), self.constants)
        )

    def _column(self, scalars):
        flat = ()
        for scalar in scalars:
            flat += (self.reshape(self.cast(scalar, mstype.float32), ()),)
        return self.reshape(self.stack(flat), self.rate_shape)
