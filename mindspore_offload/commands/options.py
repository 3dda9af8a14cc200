"""Types of options that several commands have."""

import argparse


def whole_number(text):
    """A whole number of at least 1; 7e9 is one too."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if number < 1 or number != number // 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return int(text) if text.isdecimal() else int(number)


def positive(text):
    """A number greater than 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, but got {text!r}")
    return number
