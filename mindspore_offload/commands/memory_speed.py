# SPDX-License-Identifier: Apache-2.0

"""Measures the speed of host memory with the native kernel itself, without MindSpore."""

import ctypes
import time

import numpy as np

from mindspore_offload import native_library

BYTES_A_PARAMETER = 28  # weight and both moments are read and written, the gradient is read

# The row of the coefficient tensor, in the order of `struct AdamCoefficients` in csrc/adam.h: learning rate, weight
# decay, decoupled decay, eps, clip, gradient scale, step, skip, beta1, beta2, nesterov.
COEFFICIENTS = (1e-3, 0, 0, 1e-8, 1, 1, 0, 0, 0.9, 0.999, 0)


def memory_speed(size=2**24, steps=7):
    """Returns the speed of the fastest of a few steps of `size` parameters, in 1e9 bytes per second.

    Raises:
        NativeLibraryError: If the native library can't be used here.
    """
    weight, moment1, moment2, gradient = (np.ones(size, np.float32) for _ in range(4))
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        run_kernel(weight, moment1, moment2, gradient)
        seconds.append(time.perf_counter() - start)
    return BYTES_A_PARAMETER * size / min(seconds[1:]) / 1e9


def run_kernel(weight, moment1, moment2, gradient):
    """Runs one step of the kernel on float32 arrays of the same length, in place."""
    coefficients, rows = np.array([COEFFICIENTS], np.float32), np.zeros((1, 3), np.int32)
    token = np.zeros(1, np.float32)
    arrays = [coefficients, rows, weight, moment1, moment2, gradient, token]
    count = len(arrays)
    shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    status = native_library.load().AdamInPlace(
        count,
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * count)(*(array.ndim for array in arrays)),
        (ctypes.c_void_p * count)(*(ctypes.addressof(shape) for shape in shapes)),
        (ctypes.c_char_p * count)(*(str(array.dtype).encode() for array in arrays)),
        None,
        None,
    )
    if status != 0:
        raise RuntimeError(f"the native kernel refused its arguments with status {status}")
