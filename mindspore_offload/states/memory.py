# SPDX-License-Identifier: Apache-2.0

"""The memory of states: zero pages that lie well for huge pages and caches."""

import contextlib
import itertools
import math
import mmap

import numpy as np

HUGE_PAGE = 2 * 1024 * 1024  # bytes, on x86-64 and on most aarch64 kernels; a smaller state could not use one

# The distance in bytes from the end of a large state to the next one: pages, and a quarter of one. An update walks
# through all states of a parameter at once. Zen predicts the way of its first cache from a hash of address bits 12 to
# 27. Arrays a multiple of 256 MiB apart, common with power-of-two shapes, share the hash and evict each other: an
# update took twice as long. The quarter of a page keeps CPUs from taking a load for one of what has just been stored.
GAP = 21 * 4096 + 1024


class Slices:
    """The memory of slices of a parameter's states, which lie one behind the other, as the whole states did.

    Args:
        kinds (dict[str, tuple]): The shape of each whole state and its numpy dtype, by its name.
    """

    def __init__(self, kinds):
        self._kinds, self._shape, self._waiting = kinds, None, {}

    def take(self, name, shape):
        """Returns an array of zeros in this shape for a state. Those of the other states wait beside it."""
        if shape != self._shape or name not in self._waiting:
            self._shape = shape
            self._waiting = zeros({each: (shape, dtype) for each, (_, dtype) in self._kinds.items()})
        return self._waiting.pop(name)


def zeros(kinds):
    """Returns an array of zeros for each name, by its shape and numpy dtype; they lie one behind the other.

    They have no memory yet: the operating system hands out a page when the update first touches it. An initializer
    would write every byte now, which takes longer than compiling a large net. The pages are huge where the system has
    them: in pages of 4 KiB, the page faults of a large model's first step take seconds.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in kinds.values()]
    if min(sizes) < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in kinds.items()}
    distances = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE + GAP for size in sizes]
    memory = mmap.mmap(-1, sum(distances), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    starts = itertools.accumulate(distances, initial=GAP)
    return {
        name: np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        for (name, (shape, dtype)), start in zip(kinds.items(), starts)
    }
