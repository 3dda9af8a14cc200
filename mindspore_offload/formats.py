# SPDX-License-Identifier: Apache-2.0

"""The element types of parameters and gradients, and the formats of moments, a row each.

MindSpore is not imported here: the commands answer before they load it.
"""

from typing import NamedTuple


class ElementType(NamedTuple):
    """An element type.

    Attributes:
        name (str): Its name in MindSpore.
        size (int): Its bytes.
        fraction_bits (int): The bits of its fraction: two neighbours near 1 are 2**-fraction_bits apart.
        code (str): Its name in a safetensors file.
        abbreviation (str): Its short name on a command line.
    """

    name: str
    size: int
    fraction_bits: int
    code: str
    abbreviation: str


ELEMENT_TYPES = {
    row.name: row
    for row in (
        ElementType("float32", 4, 23, "F32", "fp32"),
        ElementType("float16", 2, 10, "F16", "fp16"),
        ElementType("bfloat16", 2, 7, "BF16", "bf16"),
    )
}


class MomentFormat(NamedTuple):
    """A way to keep the moments of a parameter.

    Attributes:
        name (str): The value of `moment_dtype` that stands for it: the name of a dtype of MindSpore.
        dtype (str): The dtype of the array that holds a moment, from which the kernel tells the format.
        unit (float): The largest relative error of a moment in memory: the distance of two neighbours near 1. 0 where
            moments are kept as they are computed.
        loads (tuple[str]): The dtypes of the moments in checkpoints that it can load.
    """

    name: str
    dtype: str
    unit: float
    loads: tuple[str, ...]

    @property
    def is_stochastic(self):
        """True if moments are rounded, which is done stochastically, and by the native kernel only."""
        return self.unit > 0

    def shape(self, shape):
        """Returns the shape of the array that holds a moment of this shape."""
        return shape

    def bytes(self, size):
        """Returns the bytes of both moments of a parameter with `size` elements."""
        return len(MOMENT_NAMES) * ELEMENT_TYPES[self.dtype].size * size


# The states that hold the moments of a parameter, in the order of the kernel's arguments.
MOMENT_NAMES = ("moment1", "moment2")

_LOADS = ("float32", "bfloat16")
MOMENT_FORMATS = {
    row.name: row
    for row in (
        MomentFormat("float32", "float32", 0.0, _LOADS),
        MomentFormat("bfloat16", "bfloat16", 2.0 ** -ELEMENT_TYPES["bfloat16"].fraction_bits, _LOADS),
    )
}
EXACT = MOMENT_FORMATS["float32"]


def moment_format(dtype):
    """Returns the `MomentFormat` that a dtype of MindSpore, or its name, stands for; None if there is none."""
    return MOMENT_FORMATS.get(str(dtype).lower())
