# SPDX-License-Identifier: Apache-2.0

"""Types of options: numbers, counts and bytes."""

import argparse
import contextlib
import decimal
import re

from mindspore_offload.planning.estimation import MOST

MULTIPLES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def _number(text, must, is_right, digits=None, kind=float, multiple=1):
    """Reads a number of this kind, from a part of the text if `digits` is given, or refuses the text."""
    with contextlib.suppress(ValueError, ArithmeticError):
        number = kind(text if digits is None else digits) * multiple
        if is_right(number):
            return number
    raise argparse.ArgumentTypeError(f"must be {must}, but got {text!r:.60}")


def positive(text):
    """Reads a number greater than 0."""
    return _number(text, "a number greater than 0", lambda number: 0 < number < float("inf"))


def whole_number(text, least=1):
    """Reads a whole number of at least `least`; 7e9 is one too."""
    kind = int if text.isdecimal() else float
    must = f"a whole number of at least {least}"
    return int(_number(text, must, lambda number: number >= least and number % 1 == 0, kind=kind))


def whole_number_or_0(text):
    return whole_number(text, least=0)


def parameter_count(text):
    """Reads a whole number such as 7e9, 7B or 1.3B."""
    multiple = MULTIPLES.get(text[-1:].upper(), 1)
    digits = text if multiple == 1 else text[:-1]
    must = f"a whole number from 1 to {MOST:g}, like 7e9 or 7B"
    return int(_number(text, must, lambda n: 1 <= n <= MOST and n % 1 == 0, digits, decimal.Decimal, multiple))


def memory(text):
    """Reads a number of bytes such as 64GB, 1.5TB, 80GiB or 6.4e10."""
    digits, prefix, is_binary = re.fullmatch(r"(.*?)(?:([KMGT])(I)?)?B?", text.strip().upper(), re.DOTALL).groups()
    multiple = (1024 if is_binary else 1000) ** (" KMGT".index(prefix) if prefix else 0)
    must = "a number of bytes, like 64GB, 1.5TB or 80GiB"
    return _number(text, must, lambda size: 1 <= size <= MOST, digits, multiple=multiple)
