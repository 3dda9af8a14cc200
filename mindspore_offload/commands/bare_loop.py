"""The bare loop of the native library: the simplest Adam over the same bytes."""

import ctypes
import time

import numpy as np

from mindspore_offload import native_library
from mindspore_offload.commands.oracle import BETA1, BETA2

BYTES_A_PARAMETER = 28  # weight and moments are read and written, the gradient is read
LEARNING_RATE = 1e-3


def bare_loop(weights, gradients):
    """A function that runs a step on copies of `weights`, and one that gives the last of them."""
    loop = native_library.load().MindsporeOffloadBareLoop
    loop.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t, ctypes.c_float]
    arrays = [(w.copy(), np.zeros_like(w), np.zeros_like(w), g) for w, g in zip(weights, gradients)]
    # Pointers that keep their arrays alive.
    calls = [(*(a.ctypes.data_as(ctypes.c_void_p) for a in tensor), tensor[0].size) for tensor in arrays]
    taken = 0

    def step():
        nonlocal taken
        taken += 1
        rate = LEARNING_RATE * (1 - BETA2**taken) ** 0.5 / (1 - BETA1**taken)
        for call in calls:
            loop(*call, rate)

    return step, lambda: arrays[-1][0]


def memory_speed(size=2**24, steps=7):
    """Returns the speed of the fastest of a few steps of `size` elements, in 1e9 bytes per second."""
    weight = np.ones(size, np.float32)
    step, _ = bare_loop([weight], [weight])
    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return BYTES_A_PARAMETER * size / min(seconds) / 1e9
