# SPDX-License-Identifier: Apache-2.0

"""Converts moments between float32 and the blocks of codes of csrc/codes.h, for checkpoints."""

import numpy as np

from mindspore_offload.formats import MOMENT_FORMATS

BLOCK, BYTES = MOMENT_FORMATS["uint8"].block, MOMENT_FORMATS["uint8"].block_bytes  # codes, and a float32 scale

# The bits of the float32 number f(0), and the largest code without the sign of the first moment.
_FIRST = {"moment1": (127 - 15) << 23, "moment2": (127 - 31) << 23}
_MOST = {"moment1": 127, "moment2": 255}
_SIGN = 128
_CODE_BITS = 20  # of a float32 below those that a code keeps

_SAMPLE = 8  # one in so many elements of a block shows whether a scale fits
_AT_ONCE = 2**13  # blocks, to bound the temporary memory


def decode(blocks, moment):
    """Returns the float32 values in blocks of codes, with those of the padding of the last block.

    Args:
        blocks (numpy.ndarray): The blocks, of dtype uint8 and shape (blocks, 260).
        moment (str): "moment1" or "moment2".
    """
    quarters = blocks[:, :BLOCK].reshape(len(blocks), BLOCK // 4, 4)
    found = quarters.transpose(0, 2, 1).reshape(len(blocks), BLOCK)
    scales = np.ascontiguousarray(blocks[:, BLOCK:]).view(np.float32)
    return (_table(moment)[found] * scales).reshape(-1)


def encode(values, moment):
    """Returns the blocks of codes nearest to float32 values. Values that were decoded keep their codes.

    Values that are not finite become zero, as in a step.
    """
    blocks = np.zeros((-(-len(values) // BLOCK), BYTES), np.uint8)
    padded = np.zeros((len(blocks), BLOCK), np.float32)
    padded.reshape(-1)[: len(values)] = np.where(np.isfinite(values), values, 0)
    for start in range(0, len(blocks), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        scales = _scales(padded[part], moment)
        found = _codes(padded[part], scales, moment).reshape(-1, 4, BLOCK // 4)
        blocks[part, :BLOCK] = found.transpose(0, 2, 1).reshape(-1, BLOCK)
        blocks[part, BLOCK:] = scales.view(np.uint8)
    return blocks


def _table(moment):
    """Returns the value of each code, for a scale of 1."""
    codes = np.arange(_MOST[moment] + 1, dtype=np.uint32)
    values = ((codes << _CODE_BITS) + np.uint32(_FIRST[moment])).view(np.float32)
    if moment == "moment2":
        return values
    values = values - values[0]
    return np.concatenate([values, -values])


def _codes(values, scales, moment):
    """Returns the nearest codes of values, a row a block."""
    first = np.uint32(_FIRST[moment])
    with np.errstate(divide="ignore", invalid="ignore"):
        multiples = np.where(scales > 0, np.abs(values) / scales, np.float32(0))
    if moment == "moment1":
        multiples = multiples + first.view(np.float32)
    above = multiples.view(np.int32) - np.int32(first)
    rounded = (np.maximum(above, 0) + (1 << (_CODE_BITS - 1))) >> _CODE_BITS
    found = np.minimum(rounded, _MOST[moment]).astype(np.uint8)
    return found | np.where(np.signbit(values) & (moment == "moment1"), _SIGN, 0).astype(np.uint8)


def _scales(values, moment):
    """Returns the scale of each block, of shape (blocks, 1).

    Decoded values have a scale of which they are multiples f(code). Up to its last place, it is their largest one
    divided by one of the eight mantissas of f; the kernel may also have left room for a larger one, and rounded it down
    to 0.9375. For other values any of these will do, and the first one is taken.
    """
    largest = np.abs(values).max(axis=1, keepdims=True)
    sample = np.concatenate([values[:, ::_SAMPLE], largest], axis=1)
    smallest = np.float32(2**-15 if moment == "moment1" else 0)
    nearest = largest / (np.array([*np.arange(1, 2, 1 / 8), 0.9375], np.float32) - smallest)
    below, above = np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(np.inf))
    scales, fits = np.stack([nearest, below, above], axis=2).reshape(len(values), -1), []
    for scale in np.split(scales, scales.shape[1], axis=1):
        found = _table(moment)[_codes(sample, scale, moment)] * scale
        fits.append(((found == sample) | (sample == 0)).all(axis=1))  # padding is zero, which no second moment is
    return np.take_along_axis(scales, np.argmax(fits, axis=0)[:, np.newaxis], axis=1)  # the first one where none fits
