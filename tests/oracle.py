# SPDX-License-Identifier: Apache-2.0

"""Adam in float64, with the float32 constants of the documented optimizer, and mutants that are wrong on purpose.

Written from the contract and from the paper (Kingma and Ba, section 2), not from the kernel. It works on whole arrays,
with one line of code for each line of the algorithm.
"""

import numpy as np


class Oracle:
    """Adam for a list of arrays: its state, and its step."""

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
        self.max_grad_norm = max_grad_norm
        self.learning_rate, self.eps, self.use_nesterov = float(single(learning_rate)), float(single(eps)), use_nesterov
        self.beta1, self.beta2 = float(single(beta1)), float(single(beta2))
        self.rest1, self.rest2 = float(single(1) - single(beta1)), float(single(1) - single(beta2))
        self.weight_decay = float(single(weight_decay * loss_scale))
        self.unscale = float(single(1 / loss_scale))
        self.power1 = self.power2 = single(1)
        self.weights = [np.asarray(weight, np.float64) for weight in weights]
        self.moment1 = [np.zeros_like(weight) for weight in self.weights]
        self.moment2 = [np.zeros_like(weight) for weight in self.weights]
        # The largest terms that each moment was summed from. Terms may cancel, but their rounding errors remain.
        self.reach1 = [np.zeros_like(weight) for weight in self.weights]
        self.reach2 = [np.zeros_like(weight) for weight in self.weights]

    def step(self, gradients, weights=None):
        """Takes one step. `weights` are the optimizer's float32 weights before its step, used for the decay.

        With them, rounding errors of weights stay out of the moments, whose error is then only their own.
        """
        self.power1, self.power2 = self.power1 * np.float32(self.beta1), self.power2 * np.float32(self.beta2)
        gradients = [np.asarray(gradient, np.float64) for gradient in gradients]
        factors = self.clip_factors([gradient * self.unscale for gradient in gradients])
        for i, (scaled, weight) in enumerate(zip(gradients, weights or self.weights)):
            scaled, weight = scaled * factors[i], np.asarray(weight, np.float64)
            gradient = self.decayed(scaled, weight) * self.unscale
            gradient_reach = (np.abs(scaled) + np.abs(self.weight_decay * weight)) * self.unscale
            reach1 = self.beta1 * np.abs(self.moment1[i]) + self.rest1 * gradient_reach
            reach2 = self.beta2 * self.moment2[i] + self.rest2 * np.abs(gradient) * gradient_reach
            self.reach1[i], self.reach2[i] = np.maximum(self.reach1[i], reach1), np.maximum(self.reach2[i], reach2)

            self.moment1[i] = self.beta1 * self.moment1[i] + self.rest1 * gradient
            self.moment2[i] = self.beta2 * self.moment2[i] + self.rest2 * gradient**2
            direction = self.moment1[i]
            if self.use_nesterov:
                direction = self.beta1 * self.moment1[i] + self.rest1 * gradient
            self.weights[i] = self.updated(self.weights[i], direction, self.moment2[i])

    @property
    def moment_units(self):
        """The units in the last place that a moment may be off."""
        return MOMENT_UNITS if self.max_grad_norm is None else CLIPPED_MOMENT_UNITS

    def clip_factors(self, gradients):
        """Returns a factor for each gradient; together they bound the global norm."""
        factor = 1.0
        if self.max_grad_norm is not None:
            factor = self.max_grad_norm / max(global_norm(gradients), self.max_grad_norm)
        return [factor] * len(gradients)

    def decayed(self, gradient, weight):
        return gradient + self.weight_decay * weight

    def rate(self):
        return self.learning_rate * np.sqrt(1 - float(self.power2)) / (1 - float(self.power1))

    def updated(self, weight, direction, moment2):
        return weight - self.rate() * direction / (np.sqrt(moment2) + self.eps)


def global_norm(gradients):
    return np.sqrt(sum(np.sum(np.square(gradient)) for gradient in gradients))


class AdamW(Oracle):
    """Loshchilov and Hutter, algorithm 2: decay outside the gradient, eps added to the bias-corrected root."""

    def __init__(self, weights, weight_decay=0.01, **settings):
        super().__init__(weights, weight_decay=0.0, **settings)
        self.decay = float(np.float32(weight_decay))

    def updated(self, weight, direction, moment2):
        return self.moved(weight - self.learning_rate * self.decay * weight, direction, moment2)

    def moved(self, weight, direction, moment2):
        root = np.sqrt(moment2 / (1 - float(self.power2)))
        return weight - self.learning_rate / (1 - float(self.power1)) * direction / (root + self.eps)


class NoUpdate(Oracle):
    def updated(self, weight, direction, moment2):
        return weight


class NoBiasCorrection(Oracle):
    def rate(self):
        return self.learning_rate


class OneStepAhead(Oracle):
    def rate(self):
        power1, power2 = float(self.power1) * self.beta1, float(self.power2) * self.beta2
        return self.learning_rate * np.sqrt(1 - power2) / (1 - power1)


class EpsOnCorrectedRoot(Oracle):
    def updated(self, weight, direction, moment2):
        root = np.sqrt(moment2 / (1 - float(self.power2)))
        return weight - self.learning_rate / (1 - float(self.power1)) * direction / (root + self.eps)


class EpsInsideRoot(Oracle):
    def updated(self, weight, direction, moment2):
        return weight - self.rate() * direction / np.sqrt(moment2 + self.eps)


class DecoupledDecay(Oracle):
    def decayed(self, gradient, weight):
        return gradient

    def updated(self, weight, direction, moment2):
        return super().updated(weight * (1 - self.learning_rate * self.weight_decay), direction, moment2)


class DecayAfterUnscaling(Oracle):
    def decayed(self, gradient, weight):
        return gradient + self.weight_decay / self.unscale * weight


class NesterovIgnored(Oracle):
    def step(self, gradients, weights=None):
        self.use_nesterov = False
        super().step(gradients, weights)


class ExactConstants(Oracle):
    """Computes 1 - beta exactly, not in float32."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rest1, self.rest2 = 1 - 0.9, 1 - 0.999


class PenaltyForDecay(AdamW):
    """Adds the decay to the gradient, as an L2 penalty."""

    def __init__(self, weights, weight_decay=0.01, **settings):
        super().__init__(weights, weight_decay=0.0, **settings)
        self.weight_decay = float(np.float32(weight_decay))


class DecayAfterUpdate(AdamW):
    def updated(self, weight, direction, moment2):
        weight = self.moved(weight, direction, moment2)
        return weight - self.learning_rate * self.decay * weight


class EpsOnUncorrectedRoot(AdamW):
    def moved(self, weight, direction, moment2):
        return weight - self.rate() * direction / (np.sqrt(moment2) + self.eps)


class NormBeforeUnscaling(AdamW):
    def clip_factors(self, gradients):
        return super().clip_factors([gradient / self.unscale for gradient in gradients])


class NormOfEachTensor(AdamW):
    def clip_factors(self, gradients):
        return [super(NormOfEachTensor, self).clip_factors([gradient])[0] for gradient in gradients]


class ClippedPenalty(Oracle):
    """Clips the L2 penalty together with the gradient."""

    def decayed(self, gradient, weight):
        return gradient + self.factor * self.weight_decay * weight

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


# Units in the last place. Ten steps round each moment twenty times, by half a unit each. With clipping, the norm, its
# loss scale, the factor and the product are rounded too: two more units for a gradient, four for its square.
MOMENT_UNITS, CLIPPED_MOMENT_UNITS = 4, 8


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
