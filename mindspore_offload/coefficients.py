"""The coefficient tensor: all that a step of Adam needs to know beside the tensors, computed once a step."""

from typing import NamedTuple

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindspore_offload.placement import on_host

_scalar = C.MultitypeFuncGraph("scalar")

# The columns of the coefficient tensor, in the order of `struct AdamCoefficients` in csrc/adam.h, which explains them.
COLUMNS = (
    "learning_rate",
    "weight_decay",
    "decoupled_decay",
    "eps",
    "clip",
    "gradient_scale",
    "skip",
    "beta1",
    "beta2",
    "nesterov",
)
LEARNING_RATE, WEIGHT_DECAY, DECOUPLED_DECAY, EPS, CLIP, GRADIENT_SCALE, SKIP, BETA1, BETA2, _ = range(len(COLUMNS))
# Those that are the same in every step come last, in one piece.
CONSTANTS = COLUMNS[COLUMNS.index("skip") :]

# What a row is where a step is not taken: with a gradient of zero, one that changes nothing.
NOT_TAKEN = {"learning_rate": 0, "weight_decay": 0, "decoupled_decay": 0, "clip": 1, "skip": 1, "beta1": 1, "beta2": 1}


class Algorithm(NamedTuple):
    """Which parts the algorithm of an optimizer has; host operations leave out what is not there."""

    use_locking: bool = False
    nesterov: bool = False
    decoupled: bool = False  # the weight decay: AdamW
    unscale: bool = False  # gradients are of a scaled loss
    dynamic_scale: bool = False  # and the scale is known only in the step
    clip: bool = False
    skip: bool = False  # steps whose gradients are not finite


class Coefficients(nn.Cell):
    """Packs the coefficients of one step into a float32 tensor of shape (rows, len(COLUMNS)), on the host.

    A row serves all parameters that share a learning rate and a weight decay.

    Args:
        rows (int): The number of rows.
        beta1, beta2, eps, gradient_scale (float): As in the update; `gradient_scale` is 1 / loss_scale, where that is
            fixed.
        algorithm (Algorithm): What is computed.
    """

    def __init__(self, rows, beta1, beta2, eps, gradient_scale, algorithm):
        super().__init__(auto_prefix=False)
        self.decoupled, self.clip, self.skip = algorithm.decoupled, algorithm.clip, algorithm.skip
        self.dynamic_scale = algorithm.dynamic_scale
        values = {"beta1": beta1, "beta2": beta2, "eps": eps, "gradient_scale": gradient_scale, "skip": 0}
        values["nesterov"] = algorithm.nesterov
        self.constants = _table(rows, CONSTANTS, values)
        self.not_taken = _table(rows, COLUMNS, {**values, **NOT_TAKEN})
        self.eps, self.gradient_scales = _table(rows, ["eps"], values), _table(rows, ["gradient_scale"], values)
        self.zeros, self.ones = _table(rows, ["zero"], {"zero": 0}), _table(rows, ["one"], {"one": 1})
        self.one = Tensor(1.0, mstype.float32)
        self.column_shape = (rows, 1)
        self.cast, self.reshape = on_host(ops.Cast()), on_host(ops.Reshape())
        self.sub, self.mul, self.div = on_host(ops.Sub()), on_host(ops.Mul()), on_host(ops.Div())
        self.sqrt, self.stack, self.concat = on_host(ops.Sqrt()), on_host(ops.Stack()), on_host(ops.Concat(1))
        self.select, self.map_ = on_host(ops.Select()), C.Map()

    def construct(self, learning_rates, weight_decays, beta1_power, beta2_power, clip, finite, scale):
        """
        Args:
            learning_rates, weight_decays: Tuples of one scalar a row; the decays are times a fixed loss_scale.
            beta1_power, beta2_power: Of this step, of shape (1,).
            clip, finite, scale: What bounds the norm; whether it is finite; the dynamic loss scale. Of shape (1,), and
                read where the algorithm says.
        """
        root = self.sqrt(self.sub(self.one, beta2_power))
        rates, decays = self._column(learning_rates), self._column(weight_decays)
        corrected_rates = self.mul(rates, self.div(root, self.sub(self.one, beta1_power)))
        decoupled_decays, eps, clips, gradient_scales = self.zeros, self.eps, self.ones, self.gradient_scales
        if self.decoupled:
            decoupled_decays = self.mul(rates, self.mul(decays, self.gradient_scales))
            decays = self.zeros
            eps = self.mul(self.eps, root)
        if self.dynamic_scale:
            decays = self.mul(decays, scale)
            gradient_scales = self.div(self.ones, scale)
        if self.clip:
            clips = self.mul(self.ones, clip)
        coefficients = self.concat(
            (corrected_rates, decays, decoupled_decays, eps, clips, gradient_scales, self.constants)
        )
        if self.skip:
            coefficients = self.select(finite, coefficients, self.not_taken)
        return coefficients

    def _column(self, scalars):
        flat = self.map_(F.partial(_scalar, self.cast, self.reshape), scalars)
        return self.reshape(self.stack(flat), self.column_shape)


@_scalar.register("Function", "Function", "Tensor")
@_scalar.register("Function", "Function", "Number")
def _scalar_of(cast, reshape, value):
    return reshape(cast(value, mstype.float32), ())


def _table(rows, columns, values):
    return Tensor(np.tile(np.array([values[column] for column in columns], np.float32), (rows, 1)))
