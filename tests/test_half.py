# SPDX-License-Identifier: Apache-2.0

"""16-bit elements: widening and rounding in the native kernel, compared with numpy and with float64 arithmetic."""

import numpy as np
import pytest
from library_calls import GOOD, coefficients, launch
from rounding import bfloat16_bits, float16_bits, from_bits

from mindspore_offload.abi import ROWS


def update_without_gradient(dtype, bits, master):
    """Takes a step with zero gradients and moments. Returns the 16-bit parameters, as bits, and their masters."""
    size = len(bits)
    zeros = [np.zeros(size, np.float32) for _ in range(3)]
    rows, token = np.zeros((1, len(ROWS)), np.int32), np.zeros(1, np.float32)
    arrays = [coefficients(), rows, bits.copy(), *zeros, master.copy(), token]
    dtypes = {2: dtype}
    assert launch(arrays, dtypes=dtypes) == GOOD
    return arrays[2], arrays[6]


def float32_samples():
    """Returns every exponent, in both signs, with mantissas around the rounding boundaries; and random bits."""
    random = np.random.default_rng(5)
    exponents = np.arange(256, dtype=np.uint32) << 23
    edges = [0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF]
    for shift in (12, 13, 15, 16):
        edges += [k * (1 << shift) + d for k in (1, 2, 3) for d in (-1, 0, 1)]
    edges = np.array(edges + list(random.integers(0, 1 << 23, 100)), np.uint32)
    patterns = (exponents[:, None] | edges[None, :]).ravel()
    patterns = np.concatenate([patterns, patterns | np.uint32(1 << 31), random.integers(0, 2**32, 100_003, np.uint32)])
    return patterns.view(np.float32)


ROUNDED = {"float16": float16_bits, "bfloat16": bfloat16_bits}


def is_nan(dtype, bits):
    return bits & 0x7FFF > {"float16": 0x7C00, "bfloat16": 0x7F80}[dtype]


@pytest.mark.parametrize("dtype", ROUNDED)
def test_rounds_to_nearest_even(dtype, isa):
    """A parameter equal to its rounded master stays unchanged, and so does the master."""
    masters = float32_samples()
    masters = masters[~np.isnan(masters)]
    bits = ROUNDED[dtype](masters)
    after, masters_after = update_without_gradient(dtype, bits, masters)
    np.testing.assert_array_equal(after, bits)
    np.testing.assert_array_equal(masters_after, masters)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_nan_stays_nan(dtype, isa):
    masters = float32_samples()
    masters = masters[np.isnan(masters)]
    after, masters_after = update_without_gradient(dtype, np.full(len(masters), 0x7FFF, np.uint16), masters)
    assert is_nan(dtype, after).all()
    assert np.isnan(masters_after).all()


@pytest.mark.parametrize("dtype", ROUNDED)
def test_every_value_is_copied_exactly_into_the_master(dtype, isa):
    """A parameter that differs from its rounded master was changed outside the optimizer. Tests all 65,536 values."""
    bits = np.arange(65536, dtype=np.uint16)
    master = np.full(65536, 1e-20 if dtype == "float16" else 1.0 + 2**-20, np.float32)
    after, masters_after = update_without_gradient(dtype, bits, master)
    wide = from_bits(bits, dtype)
    kept = {"float16": bits == 0, "bfloat16": bits == 0x3F80}[dtype]
    np.testing.assert_array_equal(masters_after, np.where(kept, master, wide))
    numbers = ~is_nan(dtype, bits)
    np.testing.assert_array_equal(after[numbers], bits[numbers])
    assert is_nan(dtype, after[~numbers]).all()
