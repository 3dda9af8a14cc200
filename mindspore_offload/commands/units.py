# SPDX-License-Identifier: Apache-2.0

"""Reads numbers with units from a command line, and prints bytes and times with theirs."""

import argparse
import contextlib
import decimal
import re

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
UNITS |= {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

# By the kind of a `Range`: the name of a value in the help, examples for errors, and the pattern, in capitals. Its
# groups are the digits and the unit.
NOTATIONS = {
    "number": ("X", "0.5 or 1e-3", "(.*)()"),
    "whole number": ("N", "8, 7e9 or 7B", "(.*?)([KMBT]?)"),
    "number of bytes": ("SIZE", "64GB, 1.5TB or 80GiB", "(.*?)((?:[KMGT]I?)?)B?"),
}


def option(allowed):
    """Returns argparse's settings for an option whose value is a number of the range `allowed`."""
    metavar, examples, pattern = NOTATIONS[allowed.kind]

    def read(text):
        digits, unit = re.fullmatch(pattern, text.strip().upper(), re.DOTALL).groups()
        with contextlib.suppress(decimal.DecimalException):
            found = decimal.Decimal(digits) * UNITS[unit]
            if allowed.has(found):
                return int(found) if allowed.kind == "whole number" else float(found)
        raise argparse.ArgumentTypeError(f"must be {allowed}, like {examples}, but got {text!r:.60}")

    return {"type": read, "metavar": metavar}


def byte_text(size):
    """Returns bytes with three digits, in the largest unit that they reach."""
    return _text(size, 1, ("B", "kB", "MB", "GB", "TB"))


def time_text(seconds):
    """Returns seconds with three digits, in the largest unit that they reach."""
    return _text(seconds, 1e-9, ("ns", "us", "ms", "s"))


def _text(value, scale, units):
    if not value:
        return "0"
    while value / scale >= 999.5 and units[1:]:  # a value that is rounded to 1000 of a unit is 1 of the next
        scale, units = scale * 1000, units[1:]
    digits = value / scale
    return f"{digits:,.0f} {units[0]}" if digits >= 99.95 or units[0] == "B" else f"{digits:#.3g} {units[0]}"
