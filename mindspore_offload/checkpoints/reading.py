# SPDX-License-Identifier: Apache-2.0

"""Opens checkpoint files, whose names show their format."""

import contextlib
import os

from mindspore_offload.checkpoints.ckpt_file import CkptFile
from mindspore_offload.checkpoints.safetensors_file import SafetensorsFile
from mindspore_offload.errors import CommandError


def format_of(path):
    """Returns the subclass of `CheckpointFile` for a path."""
    return SafetensorsFile if path.lower().endswith(".safetensors") else CkptFile


@contextlib.contextmanager
def opened(path, option=""):
    """Opens a .ckpt or .safetensors file for a `with` statement, which gets the `CheckpointFile`.

    Errors name the path, and the option that gave it, if there is one.
    """
    label = f"{option} {path!r}".strip()
    try:
        # Opening a FIFO would wait for a writer.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise CommandError(f"{label} can't be read: {error.strerror}; give the path of a file") from error
    with file:
        yield format_of(path)(file, label)
