# SPDX-License-Identifier: Apache-2.0

"""Writes checkpoint files, block by block: a tensor need not fit into memory.

MindSpore's `save_checkpoint` and safetensors' `save_file` want all tensors in memory at once. `load_checkpoint` would
also read each file as a whole, and safetensors has no bfloat16 for NumPy. Importing MindSpore takes seconds.
"""

import contextlib
import errno
import json
import math
import os
import secrets
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from mindspore_offload.checkpoints.file_formats import CHECKSUM_BYTES, CHECKSUM_NAME, METADATA

# The bytes of a tensor in one Value of a .ckpt, as MindSpore cuts them. A Value must be smaller than 2 GiB.
PART_BYTES = 2**29


class Output(NamedTuple):
    """A tensor to be written.

    Attributes:
        name (str): Its name.
        shape (tuple[int]): Its shape.
        code (str): The file's name for its dtype.
        length (int): The number of its bytes.
        blocks (Iterable[bytes]): Its bytes, read once.
    """

    name: str
    shape: tuple
    code: str
    length: int
    blocks: Iterable


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


def ckpt(file, tensors, has_checksum):
    """Writes a checkpoint of MindSpore: a Value for each part of a tensor, and a checksum if asked for."""
    checksum = 0
    for tensor in tensors:
        for part in _with_heads(tensor):
            file.write(part)
            checksum = zlib.crc32(part, checksum) if has_checksum else 0
    if has_checksum:
        file.write(CHECKSUM_NAME + checksum.to_bytes(CHECKSUM_BYTES - len(CHECKSUM_NAME), "big"))


def _with_heads(tensor):
    """Yields the Values of a tensor, each as its head and then its bytes in blocks."""
    left, room = tensor.length, 0
    if not left:
        yield _head(tensor, 0)
    for block in tensor.blocks:
        block = memoryview(block)
        while block:
            if not room:
                room = min(left, PART_BYTES)
                yield _head(tensor, room)
            part = block[:room]
            yield part
            room -= len(part)
            left -= len(part)
            block = block[len(part) :]


def _head(tensor, length):
    """Returns the bytes of a Value before the `length` bytes of its content."""
    dims = b"".join(_varint(1 << 3) + _varint(dim) for dim in tensor.shape)
    content = dims + _field(2, tensor.code.encode()) + _field_head(3, length)
    value = _field(1, tensor.name.encode()) + _field_head(2, len(content) + length) + content
    return _field_head(1, len(value) + length) + value


def _field(number, text):
    return _field_head(number, len(text)) + text


def _field_head(number, length):
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number):
    head = b""
    while number > 127:
        head += bytes([number & 127 | 128])
        number >>= 7
    return head + bytes([number])


def safetensors(file, tensors, metadata):
    """Writes a safetensors file, the tensors of the longest dtype first, so that each element is aligned."""
    tensors = sorted(tensors, key=lambda tensor: (-_element_bytes(tensor), tensor.name))
    header, end = {METADATA: metadata} if metadata else {}, 0
    for tensor in tensors:
        start, end = end, end + tensor.length
        header[tensor.name] = {"dtype": tensor.code, "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors:
        for block in tensor.blocks:
            file.write(block)


def _element_bytes(tensor):
    return tensor.length // max(math.prod(tensor.shape), 1)
