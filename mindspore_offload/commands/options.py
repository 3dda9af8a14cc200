"""Types of options that several commands have."""

import argparse


def whole_number(text, least=1):
    """A whole number of at least `least`; 7e9 is one too."""
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
    """A number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, but got {text!r}")
    return number
