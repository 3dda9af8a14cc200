# SPDX-License-Identifier: Apache-2.0

"""The element types of parameters and gradients, a row each.

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
