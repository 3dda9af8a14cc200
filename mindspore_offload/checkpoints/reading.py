# SPDX-License-Identifier: Apache-2.0

"""Opens a checkpoint file and reads its tensors in blocks."""

import contextlib
import os
import stat
import struct
import zlib

from mindspore_offload.checkpoints import file_formats
from mindspore_offload.checkpoints.file_formats import BadFile
from mindspore_offload.errors import CommandError

BLOCK_BYTES = 2**20  # read at once


def is_safetensors(path):
    return path.lower().endswith(".safetensors")


class Source:
    """An open checkpoint. Its errors are a CommandError in one line, which begins with its `label`.

    Args:
        path (str): A .ckpt or .safetensors file.
        option (str): The option that gave the path, for the label.
    """

    def __init__(self, path, option=""):
        self.label = f"{option} {path!r}".strip()
        self.is_safetensors = is_safetensors(path)
        self._kind = "a file of safetensors" if self.is_safetensors else "a checkpoint of MindSpore"
        with self._errors_explained():
            # Opening a FIFO would wait for a writer.
            self._file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise CommandError(f"{self.label} is not a regular file; give the path of {self._kind}")
        self.length = status.st_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __str__(self):
        return self.label

    @contextlib.contextmanager
    def _errors_explained(self):
        try:
            yield
        except OSError as error:
            raise CommandError(f"{self.label} can't be read: {error.strerror}; give the path of a file") from error
        except BadFile as error:
            raise self.damaged(error) from error

    def damaged(self, why):
        """Returns the error for a file that is not what its name says."""
        return CommandError(f"{self.label} is not {self._kind}, or is damaged: {why}")

    def entries(self):
        """Returns the `Entry` of each tensor by name. MindSpore loads the last one of a name, and so does this."""
        with self._errors_explained():
            if not self.length:
                raise BadFile("it is empty")
            read = file_formats.safetensors if self.is_safetensors else file_formats.ckpt
            return {entry.name: entry for entry in read(self._file, self.length)}

    def metadata(self):
        """Returns the metadata of a safetensors file; {} for a .ckpt."""
        with self._errors_explained():
            return file_formats.metadata(self._file) if self.is_safetensors else {}

    def blocks(self, places):
        """Yields the bytes at `places`, in blocks of `BLOCK_BYTES` and a shorter last one.

        Keeps no block while it waits: hundreds of files may be read at once.
        """
        parts, room = [], BLOCK_BYTES
        for place in places:
            start = place.start
            while start < place.stop:
                parts.append(self._read(start, min(place.stop - start, room)))
                start += len(parts[-1])
                room -= len(parts[-1])
                if not room:
                    room = BLOCK_BYTES
                    yield _taken(parts)
        if parts:
            yield _taken(parts)

    def _read(self, start, size):
        with self._errors_explained():
            self._file.seek(start)
            part = self._file.read(size)
            if not part:
                raise BadFile("it has become shorter while it was read")
            return part

    def integers(self, entry, count):
        """Returns the `count` int32 numbers of a tensor."""
        if entry.dtype not in ("int32", "I32") or entry.length != 4 * count:
            raise self.damaged(f"{entry.name!r:.60} must have {4 * count} bytes of int32")
        return struct.unpack(f"<{count}i", b"".join(self.blocks(entry.places)))

    def checksum(self):
        """Returns the checksum in the file as a text; None if it has none."""
        with self._errors_explained():
            if self.is_safetensors:
                return file_formats.metadata(self._file).get(file_formats.CHECKSUM_TEXT)
            field = file_formats.checksum_field(self._file, self.length)
            return f"{int.from_bytes(field[len(file_formats.CHECKSUM_NAME) :], 'big')}" if field else None

    def check(self, checksum, entries, progress):
        """Compares the content with its checksum. Calls `progress` with the number of bytes of each block."""
        found = 0
        for part in self._checksummed(entries):
            found = zlib.crc32(part, found)
            progress(len(part))
        if f"{found}" != checksum:
            raise self.damaged("its checksum does not fit its content")

    def _checksummed(self, entries):
        """Yields the bytes of which MindSpore calculates the checksum."""
        if not self.is_safetensors:
            yield from self.blocks([range(self.length - file_formats.CHECKSUM_BYTES)])
            return
        for name in sorted(entries):
            yield name.encode("utf-8", "surrogatepass")
            yield from self.blocks(entries[name].places)


def _taken(parts):
    """Joins the parts, and empties the list."""
    block = b"".join(parts)
    parts.clear()
    return block
