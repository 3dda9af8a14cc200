# SPDX-License-Identifier: Apache-2.0

"""Moments in every format as float32, and how far a stored moment may be from the exact one.

Written from the documentation of the formats, not from the kernel.
"""

import mindspore as ms
import numpy as np

# The values of all codes of a block whose scale is 1: for each exponent, eight mantissas.
_SECOND = np.array([2.0**e * (8 + i) / 8 for e in range(-31, 1) for i in range(8)], np.float32)
_FIRST = np.array([2.0**e * (8 + i) / 8 for e in range(-15, 1) for i in range(8)], np.float32) - np.float32(2.0**-15)
_TABLES = {"moment1": np.concatenate([_FIRST, -_FIRST]), "moment2": _SECOND}

# The byte of each element in its row: word j has the elements j, j + 64, j + 128 and j + 192.
_BYTES = np.array([4 * (i % 64) + i // 64 for i in range(256)])


def decoded(blocks, kind):
    """Returns the float32 values in rows of codes. `kind` is "moment1" or "moment2"."""
    scales = np.ascontiguousarray(blocks[:, 256:]).view("<f4")
    return (_TABLES[kind][blocks[:, _BYTES]] * scales).reshape(-1)


def values_of(moment, shape):
    """Returns the values of a moment in any format, in the shape of its parameter."""
    if moment.dtype != ms.uint8:
        return moment.astype(ms.float32).asnumpy().reshape(shape)
    return decoded(moment.asnumpy(), moment.name.partition(".")[0])[: np.prod(shape)].reshape(shape)


def assert_stored(found, exact, dtype, kind):
    """Checks that each value found is one of the two neighbours of the exact one in `dtype`, "bfloat16" or "uint8".

    Codes have a least number, which depends on the largest number of a block of 256 elements.
    """
    found, exact = (np.asarray(each, np.float64).reshape(-1) for each in (found, exact))
    allowed = 1.0001 * 2.0**-7 * np.abs(exact)
    if dtype == "uint8":
        blocks = np.pad(np.abs(exact), (0, -len(exact) % 256)).reshape(-1, 256)
        least = {"moment1": 2.0**-17, "moment2": 2.0**-30}[kind] * blocks.max(axis=1)
        allowed = 1.0001 * 2.0**-3 * np.abs(exact) + np.repeat(least, 256)[: len(exact)]
    wrong = ~(np.abs(found - exact) <= allowed)
    assert not wrong.any(), f"{kind}: {wrong.sum()} of {wrong.size} differ, {found[wrong][0]} != {exact[wrong][0]}"
