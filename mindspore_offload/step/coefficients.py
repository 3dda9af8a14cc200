# SPDX-License-Identifier: Apache-2.0

"""The coefficient tensor: everything that a step of Adam needs beside the tensors, computed once a step."""

from typing import NamedTuple

import numpy as np
from mindspore import Tensor, float32, nn

from mindspore_offload import host
from mindspore_offload.abi import COLUMNS

# The index of each column.
LEARNING_RATE, WEIGHT_DECAY, DECOUPLED_DECAY, EPS, CLIP, GRADIENT_SCALE, _, SKIP, BETA1, BETA2, _ = range(len(COLUMNS))


class Features(NamedTuple):
    """The optional parts of the algorithm. Operations for a part that is off are not in the graph."""

    use_locking: bool = False
    nesterov: bool = False
    decoupled: bool = False  # the weight decay bypasses the moments: AdamW
    unscale: bool = False  # the gradients are those of a scaled loss
    clip: bool = False  # gradients are clipped by their global norm
    skip: bool = False  # a step whose global norm is not finite is skipped
    stochastic: bool = False  # moments are rounded stochastically, with random bits that depend on the step


class Coefficients(nn.Cell):
    """Packs the coefficients of a step into a float32 tensor of shape (rows, len(COLUMNS)), on the host.

    Args:
        rows (int): The number of rows. Parameters of a row share a learning rate and a weight decay.
        beta1, beta2, eps (float): The optimizer's arguments.
        gradient_scale (float): 1 / loss_scale; 1 if the loss scale is a Parameter.
        features (Features): The parts of the algorithm.
    """

    def __init__(self, rows, beta1, beta2, eps, gradient_scale, features):
        super().__init__(auto_prefix=False)
        self.features = features
        self.eps, self.gradient_scales = _table(rows, eps), _table(rows, gradient_scale)
        self.zeros, self.ones, self.one = _table(rows, 0), _table(rows, 1), Tensor(1.0, float32)
        # The columns that are the same in every step come last, in one piece.
        self.constants = _table(rows, beta1, beta2, features.nesterov)
        self.column_shape = (rows, 1)

    def construct(self, global_step, learning_rates, weight_decays, powers, clip, is_finite, loss_scale):
        """
        Args:
            global_step (Parameter): The number of steps before this one, of shape (1,).
            learning_rates, weight_decays: Tuples of one scalar a row. A fixed loss_scale is multiplied into the decays.
            powers: The powers of beta1 and beta2 of this step, of shape (1,).
            clip, is_finite, loss_scale: The clip factor, whether the norm is finite, the dynamic loss scale; of shape
                (1,). Each is None if its feature is off.
        """
        beta1_power, beta2_power = powers
        root = host.sqrt(host.sub(self.one, beta2_power))
        rates, decays = self._column(learning_rates), self._column(weight_decays)
        corrected_rates = host.mul(rates, host.div(root, host.sub(self.one, beta1_power)))
        decoupled_decays, eps, clips, gradient_scales = self.zeros, self.eps, self.ones, self.gradient_scales
        if self.features.decoupled:
            decoupled_decays = host.mul(rates, host.mul(decays, self.gradient_scales))
            decays = self.zeros
            eps = host.mul(self.eps, root)
        if loss_scale is not None:
            decays = host.mul(decays, loss_scale)
            gradient_scales = host.div(self.ones, loss_scale)
        if self.features.clip:
            clips = host.mul(self.ones, clip)
        steps = skips = self.zeros
        if self.features.stochastic:
            steps = host.mul(self.ones, host.cast(global_step, float32))
        if self.features.skip:  # an update then reads nothing else
            skips = host.sub(self.ones, host.cast(is_finite, float32))
        return host.concat_columns(
            (corrected_rates, decays, decoupled_decays, eps, clips, gradient_scales, steps, skips, self.constants)
        )

    def _column(self, scalars):
        return host.reshape(host.stack(host.map_(_as_scalar, scalars)), self.column_shape)


def _as_scalar(value):
    return host.reshape(host.cast(value, float32), ())


def _table(rows, *columns):
    return Tensor(np.tile(np.array(columns, np.float32), (rows, 1)))
