# SPDX-License-Identifier: Apache-2.0

"""Numbers with units on the command line: reads counts and bytes, prints bytes and times."""

import argparse
import decimal
import re

from mindspore_offload.planning.estimation import MOST

MULTIPLES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

BYTE_UNITS = ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
TIME_UNITS = ((1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1, "s"))


def parameter_count(text):
    """Reads a whole number such as 7e9, 7B or 1.3B."""
    multiple = MULTIPLES.get(text[-1:].upper(), 1)
    try:
        number = decimal.Decimal(text if multiple == 1 else text[:-1]) * multiple
        if 1 <= number <= MOST and number % 1 == 0:
            return int(number)
    except ArithmeticError:  # no number, or NaN
        pass
    raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST:g}, like 7e9 or 7B, but got {text!r:.60}")


def memory(text):
    """Reads a number of bytes such as 64GB, 1.5TB, 80GiB or 6.4e10."""
    number, prefix, is_binary = re.fullmatch(r"(.*?)(?:([KMGT])(I)?)?B?", text.strip().upper(), re.DOTALL).groups()
    multiple = (1024 if is_binary else 1000) ** (" KMGT".index(prefix) if prefix else 0)
    try:
        size = float(number) * multiple
        if 1 <= size <= MOST:
            return size
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a number of bytes, like 64GB, 1.5TB or 80GiB, but got {text!r:.60}")


def with_unit(value, units):
    """Returns `value` with three digits, in the largest unit that it reaches."""
    if not value:
        return "0"
    # A value that is rounded to 1000 of a unit is 1 of the next.
    scale, unit = next(((s, u) for s, u in reversed(units) if value / s >= 0.9995), units[0])
    digits = value / scale
    if unit == "B":
        return f"{value:.0f} B"
    return f"{digits:,.0f} {unit}" if digits >= 99.95 else f"{digits:#.3g} {unit}"
