# SPDX-License-Identifier: Apache-2.0

"""Adam in float64, with the float32 constants of the documented optimizer, and mutants that are wrong on purpose.

Written from the contract and from the paper (Kingma and Ba, section 2), not from the kernel. It works on whole arrays,
with one line of code for each line of the algorithm.
"""

import numpy as np


class Oracle:
    """Adam for a list of arrays: its state, and its step.

    `learning_rate` and `weight_decay` are one number for all arrays, or one for each. `change` sets them between steps.
    """

    def __init__(
        self,
        weights,
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        use_nesterov=False,
        weight_decay=0.0,
        loss_scale=1.0,
        max_grad_norm=None,
    ):
        single = np.float32
        self.weights = [np.asarray(weight, np.float64) for weight in weights]
        self.change(learning_rate, weight_decay, loss_scale)
        self.max_grad_norm, self.eps, self.use_nesterov = max_grad_norm, float(single(eps)), use_nesterov
        self.beta1, self.beta2 = float(single(beta1)), float(single(beta2))
        self.rest1, self.rest2 = float(single(1) - single(beta1)), float(single(1) - single(beta2))
        self.power1 = self.power2 = single(1)
        self.moment1 = [np.zeros_like(weight) for weight in self.weights]
        self.moment2 = [np.zeros_like(weight) for weight in self.weights]
        # The largest terms that each moment was summed from. Terms may cancel, but their rounding errors remain.
        self.reach1 = [np.zeros_like(weight) for weight in self.weights]
        self.reach2 = [np.zeros_like(weight) for weight in self.weights]
        # The units in the last place that a moment may be off.
        is_prepared = max_grad_norm is not None or np.any(self.weight_decay)
        self.moment_units = PREPARED_MOMENT_UNITS if is_prepared else MOMENT_UNITS

    def change(self, learning_rate, weight_decay=0.0, loss_scale=1.0):
        self.learning_rate = self._one_for_each(learning_rate)
        self.weight_decay = self._one_for_each(np.multiply(weight_decay, loss_scale))
        self.unscale = float(np.float32(1 / loss_scale))

    def _one_for_each(self, value):
        return np.broadcast_to(np.asarray(value, np.float32).astype(np.float64), len(self.weights))

    def step(self, gradients, weights=None):
        """Takes one step. `weights` are the optimizer's float32 weights before its step, used for the decay.

        With them, rounding errors of weights stay out of the moments, whose error is then only their own.
        """
        self.power1, self.power2 = self.power1 * np.float32(self.beta1), self.power2 * np.float32(self.beta2)
        gradients = [np.asarray(gradient, np.float64) for gradient in gradients]
        factors = self.clip_factors([gradient * self.unscale for gradient in gradients])
        for i, (scaled, weight) in enumerate(zip(gradients, weights or self.weights)):
            scaled, weight = scaled * factors[i], np.asarray(weight, np.float64)
            gradient = self.decayed(i, scaled, weight) * self.unscale
            gradient_reach = (np.abs(scaled) + np.abs(self.weight_decay[i] * weight)) * self.unscale
            reach1 = self.beta1 * np.abs(self.moment1[i]) + self.rest1 * gradient_reach
            reach2 = self.beta2 * self.moment2[i] + self.rest2 * np.abs(gradient) * gradient_reach
            self.reach1[i], self.reach2[i] = np.maximum(self.reach1[i], reach1), np.maximum(self.reach2[i], reach2)

            self.moment1[i] = self.beta1 * self.moment1[i] + self.rest1 * gradient
            self.moment2[i] = self.beta2 * self.moment2[i] + self.rest2 * gradient**2
            direction = self.moment1[i]
            if self.use_nesterov:
                direction = self.beta1 * self.moment1[i] + self.rest1 * gradient
            self.weights[i] = self.updated(i, self.weights[i], direction, self.moment2[i])

    def clip_factors(self, gradients):
        """Returns a factor for each gradient; together they bound the global norm."""
        factor = 1.0
        if self.max_grad_norm is not None:
            factor = self.max_grad_norm / max(global_norm(gradients), self.max_grad_norm)
        return [factor] * len(gradients)

    def decayed(self, i, gradient, weight):
        return gradient + self.weight_decay[i] * weight

    def rate(self, i):
        return self.learning_rate[i] * np.sqrt(1 - float(self.power2)) / (1 - float(self.power1))

    def updated(self, i, weight, direction, moment2):
        return weight - self.rate(i) * direction / (np.sqrt(moment2) + self.eps)


def global_norm(gradients):
    return np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))


class AdamW(Oracle):
    """Loshchilov and Hutter, algorithm 2: decay outside the gradient, eps added to the bias-corrected root."""

    def __init__(self, weights, weight_decay=0.01, **settings):
        super().__init__(weights, weight_decay=weight_decay, **settings)

    def change(self, learning_rate, weight_decay=0.01, loss_scale=1.0):
        super().change(learning_rate, 0.0, loss_scale)
        self.decay = self._one_for_each(weight_decay)

    def updated(self, i, weight, direction, moment2):
        return self.moved(i, weight - self.learning_rate[i] * self.decay[i] * weight, direction, moment2)

    def moved(self, i, weight, direction, moment2):
        root = np.sqrt(moment2 / (1 - float(self.power2)))
        return weight - self.learning_rate[i] / (1 - float(self.power1)) * direction / (root + self.eps)


class NoUpdate(Oracle):
    def updated(self, i, weight, direction, moment2):
        return weight


class NoBiasCorrection(Oracle):
    def rate(self, i):
        return self.learning_rate[i]


class OneStepAhead(Oracle):
    def rate(self, i):
        power1, power2 = float(self.power1) * self.beta1, float(self.power2) * self.beta2
        return self.learning_rate[i] * np.sqrt(1 - power2) / (1 - power1)


class EpsOnCorrectedRoot(Oracle):
    def updated(self, i, weight, direction, moment2):
        root = np.sqrt(moment2 / (1 - float(self.power2)))
        return weight - self.learning_rate[i] / (1 - float(self.power1)) * direction / (root + self.eps)


class EpsInsideRoot(Oracle):
    def updated(self, i, weight, direction, moment2):
        return weight - self.rate(i) * direction / np.sqrt(moment2 + self.eps)


class DecoupledDecay(Oracle):
    def decayed(self, i, gradient, weight):
        return gradient

    def updated(self, i, weight, direction, moment2):
        weight = weight * (1 - self.learning_rate[i] * self.weight_decay[i])
        return super().updated(i, weight, direction, moment2)


class DecayAfterUnscaling(Oracle):
    def decayed(self, i, gradient, weight):
        return gradient + self.weight_decay[i] / self.unscale * weight


class NesterovIgnored(Oracle):
    def step(self, gradients, weights=None):
        self.use_nesterov = False
        super().step(gradients, weights)


class ExactConstants(Oracle):
    """Computes 1 - beta exactly, not in float32."""

    def __init__(self, *args, beta1=0.9, beta2=0.999, **kwargs):
        super().__init__(*args, beta1=beta1, beta2=beta2, **kwargs)
        self.rest1, self.rest2 = 1 - beta1, 1 - beta2


class PenaltyForDecay(AdamW):
    """Adds the decay to the gradient, as an L2 penalty."""

    def change(self, learning_rate, weight_decay=0.01, loss_scale=1.0):
        super().change(learning_rate, 0.0, loss_scale)
        self.weight_decay = self._one_for_each(weight_decay)


class DecayAfterUpdate(AdamW):
    def updated(self, i, weight, direction, moment2):
        weight = self.moved(i, weight, direction, moment2)
        return weight - self.learning_rate[i] * self.decay[i] * weight


class EpsOnUncorrectedRoot(AdamW):
    def moved(self, i, weight, direction, moment2):
        return weight - self.rate(i) * direction / (np.sqrt(moment2) + self.eps)


class NormBeforeUnscaling(AdamW):
    def clip_factors(self, gradients):
        return super().clip_factors([gradient / self.unscale for gradient in gradients])


class NormOfEachTensor(AdamW):
    def clip_factors(self, gradients):
        return [super(NormOfEachTensor, self).clip_factors([gradient])[0] for gradient in gradients]


class ClippedPenalty(Oracle):
    """Clips the L2 penalty together with the gradient."""

    def decayed(self, i, gradient, weight):
        return gradient + self.factor * self.weight_decay[i] * weight

    def clip_factors(self, gradients):
        factors = super().clip_factors(gradients)
        self.factor = factors[0]
        return factors


ADAMW_MUTANTS = [PenaltyForDecay, DecayAfterUpdate, EpsOnUncorrectedRoot, NormBeforeUnscaling, NormOfEachTensor]

MUTANTS = [
    NoUpdate,
    NoBiasCorrection,
    OneStepAhead,
    EpsOnCorrectedRoot,
    EpsInsideRoot,
    DecoupledDecay,
    DecayAfterUnscaling,
    NesterovIgnored,
    ExactConstants,
    ClippedPenalty,
]


# Units in the last place. Ten steps round each moment twenty times, by half a unit each. With clipping or a penalty,
# the norm, its loss scale, the factor, products and the sum are rounded too: two more units for a gradient, four
# for its square.
MOMENT_UNITS, PREPARED_MOMENT_UNITS = 4, 8


def assert_agrees(oracle, weights, moment1, moment2):
    """Compares element by element: weights to 1e-6, relative above 1; moments to a few units in the last place."""
    units = oracle.moment_units
    for i, expected in enumerate(oracle.weights):
        _assert_within(f"weight {i}", weights[i], expected, 1e-6 * np.maximum(1, np.abs(expected)))
        _assert_within(f"moment1 {i}", moment1[i], oracle.moment1[i], units * _unit(oracle.reach1[i]))
        _assert_within(f"moment2 {i}", moment2[i], oracle.moment2[i], units * _unit(oracle.reach2[i]))


def _unit(values):
    """Returns the float32 unit in the last place of each value."""
    return np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)


def _assert_within(what, actual, expected, allowed):
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    wrong = ~(np.abs(actual - expected) <= allowed)  # negated, so that NaN is wrong
    assert not wrong.any(), f"{what}: {wrong.sum()} of {wrong.size} differ, {actual[wrong][0]} != {expected[wrong][0]}"
