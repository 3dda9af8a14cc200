# SPDX-License-Identifier: Apache-2.0

"""Errors and option types that several commands share."""

import argparse


class CommandError(Exception):
    """Ends a command: it is printed without a traceback, and the exit status is 2. The text says what to do."""


def one_line(error):
    """Returns the class of an exception and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def whole_number(text, least=1):
    """Converts an option to a whole number of at least `least`; 7e9 is one too."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if number < least or number != number // 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, but got {text!r}")
    return int(text) if text.isdecimal() else int(number)


def whole_number_or_0(text):
    return whole_number(text, least=0)


def positive(text):
    """Converts an option to a number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, but got {text!r}")
    return number
