# SPDX-License-Identifier: Apache-2.0

"""Prints what commands find to the standard output, and messages to the standard error."""

import contextlib
import re
import sys

from mindspore_offload.errors import CommandError

# A full or closed stream raises the last two. It is None if the program was started without it.
UNWRITABLE = (AttributeError, OSError, ValueError)


class Stream:
    """A standard stream while a command runs. It escapes characters that it can't encode, and is always flushed.

    Args:
        stream (Optional[TextIO]): `sys.stdout` or `sys.stderr`.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except UNWRITABLE as error:
            # Otherwise Python tries again at its end, prints a traceback and changes the exit status.
            with contextlib.suppress(*UNWRITABLE):
                self._stream.close()
            reason = getattr(error, "strerror", None) or "it is closed"
            raise CommandError(f"the standard output can't be written: {reason}") from error


def say(text):
    """Prints a line to the standard error, for a person. The command goes on if the line can't be written."""
    line = re.sub(r"[\0-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
    with contextlib.suppress(CommandError):
        Stream(sys.stderr).write(f"{line}\n")
