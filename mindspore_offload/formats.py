# SPDX-License-Identifier: Apache-2.0

"""The element types of parameters and gradients, and the formats of moments, a row each.

Neither MindSpore nor NumPy is imported here: the commands answer before they load them.
"""

import importlib
import math
from typing import NamedTuple


class ElementType(NamedTuple):
    """An element type.

    Attributes:
        name (str): Its name in MindSpore.
        size (int): Its bytes.
        fraction_bits (int): The bits of its fraction: two neighbours near 1 are 2**-fraction_bits apart.
        abbreviation (str): Its short name on a command line.
    """

    name: str
    size: int
    fraction_bits: int
    abbreviation: str


ELEMENT_TYPES = {
    row.name: row
    for row in (
        ElementType("float32", 4, 23, "fp32"),
        ElementType("float16", 2, 10, "fp16"),
        ElementType("bfloat16", 2, 7, "bf16"),
    )
}


class MomentFormat(NamedTuple):
    """A way to keep the moments of a parameter.

    Attributes:
        name (str): The dtype of the array that holds a moment, from which the kernel tells the format. `moment_dtype`
            has the same name.
        unit (float): The largest relative error of a moment in memory: the distance of two neighbours near 1. 0 where
            moments are kept as they are computed.
        block (int): The elements that are kept together; 1, or the number that share a scale.
        block_bytes (int): The bytes of a block in memory.
        codec_name (str): The module whose `encode` makes blocks of codes of float32 values, and whose `decode` does the
            reverse. Empty where the array has the moment's own shape, in a dtype of MindSpore.
    """

    name: str
    unit: float
    block: int
    block_bytes: int
    codec_name: str = ""

    @property
    def is_stochastic(self):
        """True if moments are rounded, which is done stochastically, and by the native kernel only."""
        return self.unit > 0

    @property
    def has_codes(self):
        """True if a moment is kept as blocks of codes, a row each, with a scale at its end."""
        return bool(self.codec_name)

    @property
    def codec(self):
        """The module named by `codec_name`."""
        return importlib.import_module(self.codec_name)

    def shape(self, shape):
        """Returns the shape of the array that holds a moment of this shape."""
        return (self._blocks(math.prod(shape)), self.block_bytes) if self.has_codes else shape

    def bytes(self, size):
        """Returns the bytes of both moments of a parameter with `size` elements."""
        return len(MOMENT_NAMES) * self._blocks(size) * self.block_bytes

    def _blocks(self, size):
        return -(-size // self.block)


# The states that hold the moments of a parameter, in the order of the kernel's arguments.
MOMENT_NAMES = ("moment1", "moment2")

# Parameters with fewer elements keep float32 moments in place of codes, and so do norms and biases, which have one
# dimension. They are under a thousandth of a transformer.
LEAST_CODED = 4096

MOMENT_FORMATS = {
    row.name: row
    for row in (
        MomentFormat("float32", 0.0, 1, 4),
        MomentFormat("bfloat16", 2.0 ** -ELEMENT_TYPES["bfloat16"].fraction_bits, 1, 2),
        MomentFormat("uint8", 2.0**-3, 256, 260, "mindspore_offload.codes"),  # 256 codes and a float32
    )
}
EXACT = MOMENT_FORMATS["float32"]


def moment_format(dtype):
    """Returns the `MomentFormat` that a dtype of MindSpore, or its name, stands for; None if there is none."""
    return MOMENT_FORMATS.get(str(dtype).lower())


def format_for(dtype, size, ndim):
    """Returns the `MomentFormat` of a parameter, by the optimizer's `moment_dtype` and the parameter's size."""
    is_coded = size >= LEAST_CODED and ndim >= 2
    return moment_format(dtype) if is_coded or not moment_format(dtype).has_codes else EXACT


def one_of(names):
    """Returns names as a list in words."""
    *others, last = names
    return f"{', '.join(others)} or {last}"
