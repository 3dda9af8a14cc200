# SPDX-License-Identifier: Apache-2.0

"""Reads numbers from a command line, with units."""

import argparse
import contextlib
import decimal
import functools
import re
from typing import NamedTuple

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Notation(NamedTuple):
    """A way to write numbers.

    Attributes:
        metavar (str): The name of such a number in the help.
        examples (str): Some numbers, for errors.
        pattern (str): The regular expression of a number, in capitals. Its groups are the digits and the unit.
    """

    metavar: str
    examples: str
    pattern: str


# By the kind of a `Range`.
NOTATIONS = {
    "number": Notation("X", "0.5 or 1e-3", "(.*)()"),
    "whole number": Notation("N", "8, 7e9 or 7B", "(.*?)([KMBT]?)"),
    "number of bytes": Notation("SIZE", "64GB, 1.5TB or 80GiB", "(.*?)((?:[KMGT]I?)?)B?"),
}


def option(allowed):
    """Returns argparse's settings for an option whose value is a number of the range `allowed`."""
    return {"type": functools.partial(_number, allowed), "metavar": NOTATIONS[allowed.kind].metavar}


def _number(allowed, text):
    """Returns the number that the text stands for, or refuses one that is not in the range."""
    notation = NOTATIONS[allowed.kind]
    digits, unit = re.fullmatch(notation.pattern, text.strip().upper(), re.DOTALL).groups()
    with contextlib.suppress(decimal.DecimalException):
        found = decimal.Decimal(digits) * UNITS[unit]
        if allowed.has(found):
            return int(found) if allowed.kind == "whole number" else float(found)
    raise argparse.ArgumentTypeError(f"must be {allowed}, like {notation.examples}, but got {text!r:.60}")
