# SPDX-License-Identifier: Apache-2.0

"""Adam in float64, with which training steps are compared."""

import numpy as np

from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def adam(weight, gradients, **settings):
    """Returns the weight after one step for each of `gradients`; see `adam_and_slack`."""
    return adam_and_slack(weight, gradients, **settings)[0]


def adam_and_slack(
    weight,
    gradients,
    learning_rate=1e-3,
    weight_decay=0.0,
    loss_scale=1.0,
    bias_correction=True,
    eps_on_corrected_root=False,
    decoupled=False,
    moment_dtype="float32",
):
    """Returns the weight after one step for each of `gradients`, with the constants rounded to float32, and its slack.

    The slack bounds the error of an element if each step leaves both moments as a neighbour in `moment_dtype`. Codes
    have a least number for each moment too, which depends on the largest one.

    The decay is an L2 penalty, or decoupled as in AdamW. `eps_on_corrected_root` adds eps where PyTorch does.
    """
    beta1, beta2 = float(np.float32(BETA1)), float(np.float32(BETA2))
    rest1, rest2 = float(np.float32(1) - np.float32(BETA1)), float(np.float32(1) - np.float32(BETA2))
    moments = MOMENT_FORMATS[moment_dtype]
    unit = moments.unit
    least1, least2 = (2.0**-14, 2.0**-30) if moments.has_codes else (0.0, 0.0)
    weight = np.asarray(weight, np.float64)
    m = v = 0.0
    m_error = v_error = slack = 0.0
    for t, gradient in enumerate(gradients, 1):
        gradient = np.asarray(gradient, np.float64) / loss_scale
        if decoupled:
            weight = weight - learning_rate * weight_decay * weight
        else:
            gradient = gradient + weight_decay * weight
        m_error = beta1 * (m_error + unit * (np.abs(m) + m_error) + least1 * np.max(np.abs(m)))
        v_error = beta2 * (v_error + unit * (v + v_error) + least2 * np.max(v))
        m = beta1 * m + rest1 * gradient
        v = beta2 * v + rest2 * gradient**2
        correction1, correction2 = (1 - beta1**t, 1 - beta2**t) if bias_correction else (1, 1)
        eps = EPS * np.sqrt(correction2) if eps_on_corrected_root else EPS
        rate = learning_rate * np.sqrt(correction2) / correction1
        weight = weight - rate * m / (np.sqrt(v) + eps)
        least_root = np.sqrt(np.maximum(v - v_error, 0)) + eps
        slack = slack + rate * ((np.abs(m) + m_error) / least_root - np.abs(m) / (np.sqrt(v) + eps))
    return weight, slack


def worst_error(actual, expected, dtype, roundings=1, slack=0.0):
    """Returns the largest error of an element, in units of the allowed error.

    Allowed are `slack`, 1e-6 for float32 arithmetic, and half a unit of `dtype` for each time that the value was
    rounded to it.
    """
    allowed = slack + 1e-6 * np.maximum(1, np.abs(expected))
    if dtype != "float32":
        exponent = np.maximum(np.frexp(np.abs(expected))[1] - 1, -14)
        allowed = allowed + roundings * np.ldexp(0.5, exponent - ELEMENT_TYPES[dtype].fraction_bits)
    errors = np.abs(np.asarray(actual, np.float64) - expected) / allowed
    return errors.max() if np.isfinite(errors).all() else np.inf
