# SPDX-License-Identifier: Apache-2.0

"""Prints bytes and times with their units."""


def byte_text(size):
    """Returns bytes with three digits, in the largest unit that they reach."""
    return f"{size:.0f} B" if 0 < size < 999.5 else _text(size, 1e3, ("kB", "MB", "GB", "TB"))


def time_text(seconds):
    """Returns seconds with three digits, in the largest unit that they reach."""
    return _text(seconds, 1e-9, ("ns", "us", "ms", "s"))


def _text(value, scale, units):
    if not value:
        return "0"
    for unit in units:
        # A value that is rounded to 1000 of a unit is 1 of the next.
        if value / scale < 999.5 or unit == units[-1]:
            break
        scale *= 1000
    digits = value / scale
    return f"{digits:,.0f} {unit}" if digits >= 99.95 else f"{digits:#.3g} {unit}"
