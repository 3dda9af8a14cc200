# SPDX-License-Identifier: Apache-2.0

"""The bare loop: the simplest Adam over the same bytes, for comparison: about what the memory allows."""

import ctypes
import functools
import subprocess

import numpy as np
from oracle import Oracle

from benchmarks.process import ROOT
from mindspore_offload.errors import CommandError

LIBRARY = "build/libbare_loop.so"
LEARNING_RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


@functools.cache
def library(threads):
    """Builds the loop if needed and returns its library as a `ctypes.CDLL` with this number of threads."""
    built = subprocess.run(["make", "--silent", LIBRARY], cwd=ROOT, capture_output=True, text=True)
    if built.returncode:
        raise CommandError(f"the bare loop can't be built: {built.stderr.strip()}; install make and g++")
    loaded = ctypes.CDLL(str(ROOT / LIBRARY))
    loaded.MindsporeOffloadBareLoop.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t, ctypes.c_float]
    loaded.MindsporeOffloadSetThreads.argtypes = [ctypes.c_size_t]
    loaded.MindsporeOffloadSetThreads(threads)
    return loaded


class BareLoop:
    """The bare loop with the interface of the rivals, see `benchmarks.rivals.Rival`."""

    dtype, moment_dtype, has_master, gradients = "float32", "float32", True, "NumPy"

    def __init__(self, threads):
        self.threads = threads

    def start(self, data):
        """Returns a function that runs one step, and one that returns the last parameter."""
        loop = library(self.threads).MindsporeOffloadBareLoop
        arrays = [(w.copy(), np.zeros_like(w), np.zeros_like(w), g) for w, g in zip(data.weights, data.gradients)]
        # These pointers keep their arrays alive.
        calls = [(*(a.ctypes.data_as(ctypes.c_void_p) for a in tensor), tensor[0].size) for tensor in arrays]
        steps = 0

        def step():
            nonlocal steps
            steps += 1
            rate = LEARNING_RATE * (1 - BETA2**steps) ** 0.5 / (1 - BETA1**steps)
            for call in calls:
                loop(*call, rate)

        return step, lambda: arrays[-1][0]

    def oracle(self, weight):
        return Oracle([weight])
