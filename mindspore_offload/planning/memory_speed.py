# SPDX-License-Identifier: Apache-2.0

"""Measures the speed of host memory with the native kernel itself, without MindSpore."""

import ctypes
import timeit

import numpy as np

from mindspore_offload import abi, native_library

BYTES_A_PARAMETER = 28  # weight and both moments are read and written, the gradient is read

# The row of the coefficient tensor; the other columns are 0.
COEFFICIENTS = {"learning_rate": 1e-3, "eps": 1e-8, "clip": 1, "gradient_scale": 1, "beta1": 0.9, "beta2": 0.999}


def memory_speed(size=2**24):
    """Returns the speed of host memory in the fastest of a few steps of `size` parameters, in 1e9 bytes per second.

    Raises:
        NativeLibraryError: If the native library can't be used here.
    """
    return BYTES_A_PARAMETER * size / seconds_of_a_step(size) / 1e9


def seconds_of_a_step(size):
    """Returns the time of the fastest of a few steps of `size` parameters."""
    arrays = [np.ones(size, np.float32) for _ in range(4)]
    return min(timeit.repeat(lambda: run_kernel(*arrays), number=1, repeat=8))


def run_kernel(weight, moment1, moment2, gradient):
    """Runs one step of the kernel on float32 arrays of the same length, in place."""
    coefficients = np.array([[COEFFICIENTS.get(column, 0) for column in abi.COLUMNS]], np.float32)
    rows = np.zeros((1, len(abi.ROWS)), np.int32)
    token = np.zeros(1, np.float32)
    arrays = [coefficients, rows, weight, moment1, moment2, gradient, token]
    count = len(arrays)
    shapes = [array.ctypes.shape_as(ctypes.c_int64) for array in arrays]
    data = (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays))
    dims = (ctypes.c_int * count)(*(array.ndim for array in arrays))
    places_of_shapes = (ctypes.c_void_p * count)(*map(ctypes.addressof, shapes))
    dtypes = (ctypes.c_char_p * count)(*(str(array.dtype).encode() for array in arrays))
    status = native_library.load().AdamInPlace(count, data, dims, places_of_shapes, dtypes, None, None)
    if status != abi.STATUSES.index("ok"):
        raise RuntimeError(f"the native kernel refused its arguments: {abi.STATUSES[status]}")
