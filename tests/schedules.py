# SPDX-License-Identifier: Apache-2.0

"""Learning rates and weight decays as users write them, with the value that each has in step 0, 1, ..."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class HalvingRate(nn.learning_rate_schedule.LearningRateSchedule):
    def construct(self, global_step):
        return 0.1 * ops.pow(Tensor(0.5, ms.float32), global_step.astype(ms.float32))


class Warming(nn.learning_rate_schedule.LearningRateSchedule):
    """Rises to 0.01 in 20 steps."""

    def construct(self, global_step):
        return 0.01 * (global_step.astype(ms.float32) + 1).clip(0, 20) / 20


class GrowingDecay(nn.Cell):
    def construct(self, global_step):
        return (global_step.astype(ms.float32) + 1) * 0.05


class DecayThatBeginsAtZero(nn.Cell):
    def construct(self, global_step):
        return 0.01 * global_step.astype(ms.float32)


RATES = [0.1, 0.05, 0.2, 0.01]

LEARNING_RATES = {
    "float": (lambda: 0.02, lambda step: 0.02),
    "int": (lambda: 1, lambda step: 1.0),
    "tensor-0d": (lambda: Tensor(0.02, ms.float32), lambda step: 0.02),
    "tensor-1d": (lambda: Tensor(RATES, ms.float32), RATES.__getitem__),
    "list": (lambda: RATES, RATES.__getitem__),
    "tuple": (lambda: tuple(RATES), RATES.__getitem__),
    "generator": (lambda: (rate for rate in RATES), RATES.__getitem__),
    "iterator": (lambda: iter(RATES), RATES.__getitem__),
    "map": (lambda: map(float, RATES), RATES.__getitem__),
    "numpy": (lambda: np.array(RATES), RATES.__getitem__),
    "exponential-decay": (lambda: nn.ExponentialDecayLR(0.1, 0.9, 2), lambda s: 0.1 * 0.9 ** (s / 2)),
    "natural-exp-decay": (lambda: nn.NaturalExpDecayLR(0.1, 0.9, 2), lambda s: 0.1 * np.exp(-0.9 * s)),
    "inverse-decay": (lambda: nn.InverseDecayLR(0.1, 0.5, 2), lambda s: 0.1 / (1 + 0.5 * s / 2)),
    "cosine-decay": (lambda: nn.CosineDecayLR(0.01, 0.1, 4), lambda s: 0.01 + 0.045 * (1 + np.cos(np.pi * s / 4))),
    "polynomial-decay": (lambda: nn.PolynomialDecayLR(0.1, 0.01, 4, 0.5), lambda s: 0.09 * (1 - s / 4) ** 0.5 + 0.01),
    "warm-up": (lambda: nn.WarmUpLR(0.1, 3), lambda s: 0.1 * min(s, 3) / 3),
    "own-schedule": (HalvingRate, lambda s: 0.1 * 0.5**s),
}

WEIGHT_DECAYS = {
    "none": (lambda: 0.0, lambda step: 0.0),
    "float": (lambda: 0.1, lambda step: 0.1),
    "int": (lambda: 1, lambda step: 1.0),
    "cell": (GrowingDecay, lambda step: (step + 1) * 0.05),
    "cell-from-zero": (DecayThatBeginsAtZero, lambda step: 0.01 * step),
}
