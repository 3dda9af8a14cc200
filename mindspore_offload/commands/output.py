# SPDX-License-Identifier: Apache-2.0

"""Prints what commands find to the standard output, and messages to the standard error."""

import contextlib
import re
import sys

from mindspore_offload.errors import CommandError


class Results:
    """The standard output while a command runs. It escapes characters that the stream can't encode.

    Args:
        stream (Optional[TextIO]): `sys.stdout`, which is None if the program was started without one.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        if self._stream is None:
            raise CommandError("the standard output can't be written: it is closed")
        try:
            _write(self._stream, text)
        except (OSError, ValueError) as error:
            raise CommandError(f"the standard output can't be written: {_reason(error)}") from error


def say(text):
    """Prints a line to the standard error, for a person. The command goes on if the line can't be written."""
    line = re.sub(r"[\0-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            _write(sys.stderr, f"{line}\n")


def _write(stream, text):
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        # Otherwise Python tries again at its end, prints a traceback and changes the exit status.
        with contextlib.suppress(OSError, ValueError):
            stream.close()
        raise


def _reason(error):
    return getattr(error, "strerror", None) or "it is closed"
