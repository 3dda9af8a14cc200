# SPDX-License-Identifier: Apache-2.0

"""Writes a file that gets its name when it is complete."""

import contextlib
import errno
import os
import secrets


@contextlib.contextmanager
def named_at_the_end(path, may_replace):
    """Gives a new file beside `path` to write to. It gets that name when it is complete, or is removed.

    Raises:
        FileExistsError: If a file has that name by then, and must not be replaced.
    """
    # Not by the process id: in a container, that of a killed program comes again.
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if may_replace or not _linked(temporary, path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _linked(temporary, path):
    """Gives a file one more name, unless a file has that name. Returns False on a file system without hard links."""
    try:
        os.link(temporary, path)
        return True
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        return False
