# SPDX-License-Identifier: Apache-2.0

"""MindSpore's .ckpt files.

One is a protocol buffer: a Checkpoint has Values (field 1), a Value has a tag (1) and a tensor (2) or a map of
parameters (3), and a tensor has dims (1), a dtype (2) and its content (3). A large tensor comes in several Values, one
after the other, each with the dims of the whole. A name and ten bytes with the checksum may follow.
"""

import zlib

from mindspore_offload.checkpoints.checkpoint_file import CHECKSUM_NAME, DIMS_LIMIT, CheckpointFile, Entry

TENSORS_LIMIT = 2**18  # Values of a file
TEXT_LIMIT = 2**16  # bytes of a name or a dtype
MAP = "map"  # stands for the dtype of a map of parameters
# The bytes of a tensor in one Value, as MindSpore cuts them. A Value must be smaller than 2 GiB.
PART_BYTES = 2**29
# The keys of fields, with their number and their kind: 0 for a whole number, 2 for bytes.
DIM = 1 << 3
VALUE = NAME = 1 << 3 | 2
TENSOR = DTYPE = 2 << 3 | 2
MAP_TENSOR = CONTENT = 3 << 3 | 2
CHECKSUM_MARK, NUMBER_BYTES = CHECKSUM_NAME.encode(), 10
CHECKSUM_BYTES = len(CHECKSUM_MARK) + NUMBER_BYTES


class CkptFile(CheckpointFile):
    """A .ckpt file."""

    KIND = "a checkpoint of MindSpore"

    def _read(self):
        content, checksum = range(self.length), None
        end = self.read(content[-CHECKSUM_BYTES:])
        if end[:-NUMBER_BYTES] == CHECKSUM_MARK:
            checksum = f"{int.from_bytes(end[-NUMBER_BYTES:], 'big')}"
            content = content[:-CHECKSUM_BYTES]
        entries, last = {}, None
        for key, value in self._fields(content, TENSORS_LIMIT):
            if key != VALUE:
                raise self.damaged("it does not consist of the entries of a checkpoint")
            try:
                entry = self._entry(value)
            except (KeyError, UnicodeDecodeError) as error:
                raise self.damaged("it has an entry without a tensor or without a name in UTF-8") from error
            if entry.name == last:
                entries[last].places.extend(entry.places)
            else:
                entries[entry.name], last = entry, entry.name
        return entries, checksum, self._blocks(content)

    def _entry(self, place):
        """Returns the tensor in a Value. Of several values of a field, the last one counts."""
        value = dict(self._fields(place))
        name = self.read(value[NAME], TEXT_LIMIT).decode("utf-8")
        if value.keys() == {NAME, MAP_TENSOR}:  # no optimizer here updates a map of parameters
            return Entry(name, (), MAP, MAP, [])
        fields = list(self._fields(value[TENSOR]))
        dims, tensor = [dim for key, dim in fields if key == DIM], dict(fields)
        code = self.read(tensor[DTYPE], TEXT_LIMIT).decode("utf-8")
        if dims == [0] and tensor[CONTENT]:  # as MindSpore saves a shape of ()
            dims = []
        return Entry(name, tuple(dims), code.lower(), code, [tensor[CONTENT]])

    def _fields(self, place, limit=DIMS_LIMIT):
        """Yields the key and the value of each field of a message: a whole number, or the range of its bytes."""
        for _ in range(limit):
            if not place:
                return
            key, place = self._varint(place)
            value, place = self._varint(place)
            if key & 7 == 2:
                if value > len(place):
                    raise self.damaged("it ends, or a part of it ends, in the middle of a field")
                value, place = place[:value], place[value:]
            elif key & 7:
                raise self.damaged("it has a field of a kind that no checkpoint has")
            yield key, value
        raise self.damaged(f"a part of it has {limit:,} fields or more")

    def _varint(self, place):
        """Returns the number that a place begins with, of 7 bits a byte, and the place behind it."""
        value = 0
        for i, byte in enumerate(self.read(place[:10])):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value, place[i + 1 :]
        raise self.damaged("it has a number of more than 64 bits, or ends in the middle of one")

    def written(self, tensors, has_checksum):
        checksum = 0
        for entry, blocks in tensors:
            for part in _values(entry, blocks):
                checksum = zlib.crc32(part, checksum) if has_checksum else 0
                yield part
        if has_checksum:
            yield CHECKSUM_MARK + checksum.to_bytes(NUMBER_BYTES, "big")


def _values(entry, blocks):
    """Yields the Values of a tensor, each as its head and then its bytes in blocks."""
    block = b""
    for start in range(0, entry.length or 1, PART_BYTES):
        left = min(PART_BYTES, entry.length - start)
        yield _head(entry, left)
        while left:
            block = block or next(blocks)
            part, block = block[:left], block[left:]
            left -= len(part)
            yield part
    yield from blocks  # there are no more, but they shall end


def _head(entry, length):
    """Returns the bytes of a Value before the `length` bytes of its content."""
    dims = b"".join(_varint(DIM) + _varint(dim) for dim in entry.shape)
    tensor = dims + _field(DTYPE, entry.code.encode()) + _field(CONTENT, b"", length)
    return _field(VALUE, _field(NAME, entry.name.encode()) + _field(TENSOR, tensor, length), length)


def _field(key, content, behind=0):
    """Returns a field with this content and the bytes `behind` it, which follow."""
    return _varint(key) + _varint(len(content) + behind) + content


def _varint(number):
    if number < 128:
        return bytes([number])
    return bytes([number % 128 + 128]) + _varint(number // 128)
