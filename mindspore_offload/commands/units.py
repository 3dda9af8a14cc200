# SPDX-License-Identifier: Apache-2.0

"""Prints bytes and times with their units."""


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
