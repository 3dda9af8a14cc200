# SPDX-License-Identifier: Apache-2.0

"""A checkpoint file: what is in it, and the bytes of its tensors, a block at a time.

There is a subclass for each format, which reads and writes it without the libraries. The checkpoints of a large model
do not fit into memory, and MindSpore's `load_checkpoint` and `save_checkpoint`, protobuf, and safetensors' `save_file`
need all values there. safetensors' `safe_open` reads slices, but it has no bfloat16 for NumPy, does not give the places
of the bytes, and maps the whole file, which a limit on the address space forbids. Importing MindSpore also takes
seconds.

The file may be damaged or made to do harm: everything in it is checked and has a limit. What a file says of itself
never decides how much is read or allocated.
"""

import math
import os
import struct
import zlib
from typing import NamedTuple

from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES

BLOCK_BYTES = 2**20  # read at once
DIMS_LIMIT = 64
CHECKSUM_NAME = "crc_num"  # of the checksum of MindSpore in both formats


class Entry(NamedTuple):
    """A tensor in a checkpoint file.

    Attributes:
        name (str): Its name.
        shape (tuple[int]): Its shape.
        dtype (str): The name of its dtype in MindSpore, in lower case. An unknown dtype keeps the file's name for it.
        code (str): The file's name for its dtype.
        places (list[range]): The places of its bytes in the file, in their order. If it is to be written, only their
            sizes count.
    """

    name: str
    shape: tuple
    dtype: str
    code: str
    places: list

    @property
    def size(self):
        """The number of its elements."""
        return math.prod(self.shape)

    @property
    def length(self):
        """The number of its bytes."""
        return sum(map(len, self.places))


class CheckpointFile:
    """An open checkpoint. Its errors are a CommandError in one line, which begins with its `label`.

    A subclass has for its format:

    - `KIND`: what such a file is called.
    - `_read()`: returns the entries by name, which are still to be checked, the checksum, and an iterator of the bytes
      of which MindSpore calculates it.
    - `written(tensors, has_checksum)`: yields the bytes of a new file. `tensors` has for each one its `Entry` and its
      bytes in blocks, which are read once and to their end.

    Args:
        file (BinaryIO): The file.
        label (str): What to call it in errors.

    Attributes:
        length (int): Its bytes.
        entries (dict[str, Entry]): Its tensors by name. MindSpore loads the last one of a name, and so does this.
        checksum (Optional[str]): Its checksum of MindSpore, None if it has none.
    """

    def __init__(self, file, label):
        self._file, self.label = file, label
        self.length = os.fstat(file.fileno()).st_size
        if not self.length:
            raise self.damaged("it is empty, or not a regular file")
        self.entries, self.checksum, self._checked = self._read()
        for entry in self.entries.values():
            self._check(entry)

    def __str__(self):
        return self.label

    def damaged(self, why):
        """Returns the error for a file that is not what its name says."""
        return CommandError(f"{self.label} is not {self.KIND}, or is damaged: {why}")

    def _check(self, entry):
        """Refuses a tensor whose shape does not fit its bytes."""
        shape, element = list(entry.shape), ELEMENT_TYPES.get(entry.dtype)
        # bool is a subclass of int, and -1 as a varint is 2**64 - 1.
        is_shape = len(shape) <= DIMS_LIMIT and all(type(dim) is int and 0 <= dim < 2**63 for dim in shape)
        if not is_shape or (element and entry.size * element.size != entry.length):
            raise self.damaged(
                f"the tensor {entry.name!r:.60} of {entry.dtype:.20} and shape {shape!r:.60} has {entry.length:,} "
                f"bytes; a shape has at most {DIMS_LIMIT} dimensions, which are whole numbers from 0 on, and fits them"
            )

    def read(self, place, limit=BLOCK_BYTES):
        """Returns the bytes of a range, of which there may be `limit`."""
        size = place.stop - place.start
        if size > limit:
            raise self.damaged(f"a part of it would have {size:,} bytes, and at most {limit:,} are read")
        try:
            self._file.seek(place.start)
            content = self._file.read(size)
        except OSError as error:
            raise CommandError(f"{self.label} can't be read: {error.strerror}; give the path of a file") from error
        if len(content) < size:
            raise self.damaged("it ends too early")
        return content

    def blocks(self, name):
        """Yields the bytes of a tensor in blocks."""
        for place in self.entries[name].places:
            yield from self._blocks(place)

    def _blocks(self, place):
        for start in range(0, len(place), BLOCK_BYTES):
            yield self.read(place[start : start + BLOCK_BYTES])  # not held while it waits

    def integers(self, name, count):
        """Returns the `count` int32 numbers of a tensor."""
        entry = self.entries[name]
        if entry.dtype != "int32" or entry.length != 4 * count:
            raise self.damaged(f"{name!r:.60} must have {4 * count} bytes of int32")
        return struct.unpack(f"<{count}i", b"".join(self.blocks(name)))

    def check(self):
        """Compares the content with the checksum, once. Yields the number of bytes of each block."""
        found = 0
        for part in self._checked:
            found = zlib.crc32(part, found)
            yield len(part)
        if f"{found}" != self.checksum:
            raise self.damaged("its checksum does not fit its content")
