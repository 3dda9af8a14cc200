# SPDX-License-Identifier: Apache-2.0

"""16-bit floating-point numbers in numpy, which has no bfloat16: rounding to nearest even, and bits."""

import mindspore as ms
import numpy as np


def float16_bits(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


def bfloat16_bits(values):
    """Picks the nearer of the two bfloat16 neighbours, compared in float64; in a tie, the even one."""
    low = values.view(np.uint32) >> 16
    as_float64 = (np.stack([low, low + 1]) << 16).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        as_float64 = as_float64.astype(np.float64)
    # Above the largest finite value, infinity stands for the next power of two.
    as_float64 = np.where(np.isinf(as_float64), np.copysign(2.0**128, as_float64), as_float64)
    below, above = np.abs(values.astype(np.float64) - as_float64)
    up = (above < below) | ((above == below) & (low & 1 == 1))
    return np.where(np.isinf(values), low, low + up).astype(np.uint16)


def to_bits(values, dtype):
    """Returns float32 values as a tensor of that dtype holds them: 16-bit ones as uint16."""
    return {"float16": float16_bits, "bfloat16": bfloat16_bits}.get(dtype, np.copy)(values)


def from_bits(values, dtype):
    if dtype == "float16":
        return values.view(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


NAMES = {ms.float32: "float32", ms.float16: "float16", ms.bfloat16: "bfloat16"}


def rounded(values, dtype):
    """Returns float32 values of any shape rounded to a dtype of MindSpore's, as float32."""
    flat = values.reshape(-1)
    return from_bits(to_bits(flat, NAMES[dtype]), NAMES[dtype]).reshape(values.shape)
