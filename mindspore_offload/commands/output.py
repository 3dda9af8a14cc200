# SPDX-License-Identifier: Apache-2.0

"""Prints what commands find to the standard output, and messages to the standard error."""

import contextlib
import re
import sys

from mindspore_offload.errors import CommandError

# A full or closed stream raises the last two. It is None if the program was started without it.
UNWRITABLE = (AttributeError, OSError, ValueError)


class Results:
    """The standard output while a command runs. It escapes characters that the stream can't encode.

    Args:
        stream (Optional[TextIO]): `sys.stdout`.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        _write(self._stream, text)


def say(text):
    """Prints a line to the standard error, for a person. The command goes on if the line can't be written."""
    line = re.sub(r"[\0-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    with contextlib.suppress(CommandError):
        _write(sys.stderr, f"{line}\n")


def _write(stream, text):
    try:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except UNWRITABLE as error:
        # Otherwise Python tries again at its end, prints a traceback and changes the exit status.
        with contextlib.suppress(*UNWRITABLE):
            stream.close()
        reason = getattr(error, "strerror", None) or "it is closed"
        raise CommandError(f"the standard output can't be written: {reason}") from error
