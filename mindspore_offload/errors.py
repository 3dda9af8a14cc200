# SPDX-License-Identifier: Apache-2.0

"""Errors and warnings: the one form in which bad input is refused, and the user's line."""

import re
import sys
import traceback
import warnings
from typing import NoReturn


class CommandError(Exception):
    """Ends a command: it is printed without a traceback, and the exit status is 2. The text says what to do."""


def refuse(error: type[Exception], who: str, what: str, must: str, got: object = "", cure: str = "") -> NoReturn:
    """Raises an error in MindSpore's words: who refuses what, what was expected, what came, and what to do.

    Args:
        error (type[Exception]): The class of the error.
        who (str): The class or the function that was called.
        what (str): What is wrong, such as "argument 'beta1'".
        must (str): What was expected, after "must".
        got (object): What came, after "but got"; nothing if `must` says it. For a value with its type, see `typed`.
        cure (str): What to do. Without one, it is what was expected.
    """
    came = f", but got {got}" if f"{got}" else ""
    raise error(f"For '{who}', the {what} must {must}{came}{cure and '; '}{cure}.")


def warn(message, category=UserWarning):
    """Warns, and names the user's line, however many of ours lie between. In MindSpore's threads there may be none."""
    frames = [frame for frame, _ in traceback.walk_stack(sys._getframe())]
    is_ours = [frame.f_globals.get("__name__", "").startswith("mindspore_offload.") for frame in frames]
    warnings.warn(message, category, stacklevel=(*is_ours, False).index(False) + 1)


def typed(value: object) -> str:
    """Returns the beginning of a value, with its type, for a message."""
    return f"{value!r:.60} of type {type(value).__name__}"


def one_line(error):
    """Returns the class of an exception and the first line of its text.

    MindSpore divides texts into sections. The rule above and below the title of a section is no line, nor is the title.
    """
    lines = (line.strip() for line in str(error).splitlines())
    first = next((line for line in lines if line and not re.match(r"--|- .*:", line)), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
