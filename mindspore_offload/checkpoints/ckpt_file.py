# SPDX-License-Identifier: Apache-2.0

"""MindSpore's .ckpt files.

One is a protocol buffer: a Checkpoint has Values (field 1), a Value has a tag (1) and a tensor (2), and a tensor has
dims (1), a dtype (2) and its content (3). A large tensor comes in several Values, one after the other, each with the
dims of the whole. A name and ten bytes with the checksum may follow.
"""

import collections
import zlib

from mindspore_offload.checkpoints.checkpoint_file import CHECKSUM_NAME, DIMS_LIMIT, CheckpointFile, Entry

TENSORS_LIMIT = 2**18  # Values of a file
TEXT_LIMIT = 2**16  # bytes of a name or a dtype
MAP = "map"  # stands for the dtype of a map of parameters
# The bytes of a tensor in one Value, as MindSpore cuts them. A Value must be smaller than 2 GiB.
PART_BYTES = 2**29
CHECKSUM_MARK, CHECKSUM_BYTES = CHECKSUM_NAME.encode(), 17


class CkptFile(CheckpointFile):
    """A .ckpt file."""

    KIND = "a checkpoint of MindSpore"

    def _read(self):
        end = self.read(max(self.length - CHECKSUM_BYTES, 0), min(self.length, CHECKSUM_BYTES))
        checksum = None
        if len(end) == CHECKSUM_BYTES and end.startswith(CHECKSUM_MARK):
            checksum = f"{int.from_bytes(end[len(CHECKSUM_MARK) :], 'big')}"
        entries, last = {}, None
        for number, value in self._fields(self._checked_bytes(checksum), TENSORS_LIMIT):
            if number != 1 or not isinstance(value, range):
                raise self.damaged("it does not consist of the entries of a checkpoint")
            entry = self._entry(value)
            if last and last.name == entry.name:
                last.places.extend(entry.places)
            else:
                entries[entry.name] = last = entry
        return entries, checksum

    def _checked_bytes(self, checksum):
        return range(self.length - CHECKSUM_BYTES if checksum else self.length)

    def _checksummed(self):
        return self._blocks(self._checked_bytes(self.checksum))

    def _entry(self, place):
        """Returns the tensor in a Value."""
        value = self._message(place)
        name = self._text(value[1])
        if not value[2]:  # a map of parameters, which no optimizer here updates
            return Entry(name, (), MAP, MAP, [])
        tensor = self._message(self._place(value[2]))
        code = self._text(tensor[2]) if tensor[2] else MAP
        dims, places = tensor[1], [self._place(tensor[3])] if tensor[3] else []
        if dims == [0] and places and places[0]:  # as MindSpore saves a shape of ()
            dims = []
        return Entry(name, tuple(dims), code.lower(), code, places)

    def _message(self, place):
        """Returns the values of each field of a message, by its number."""
        found = collections.defaultdict(list)
        for number, value in self._fields(place, DIMS_LIMIT):
            found[number].append(value)
        return found

    def _fields(self, place, limit):
        """Yields the number and the value of each field of a message: a whole number, or the range of its bytes."""
        start, count = place.start, 0
        while start < place.stop:
            count += 1
            if count > limit:
                raise self.damaged(f"a part of it has more than {limit:,} fields")
            key, start = self._varint(start)
            value, start = self._varint(start)
            if key & 7 == 2:
                start, value = start + value, range(start, start + value)
            elif key & 7:
                raise self.damaged("it has a field of a kind that no checkpoint has")
            if start > place.stop:
                raise self.damaged("it ends, or a part of it ends, in the middle of a field")
            yield key >> 3, value

    def _varint(self, start):
        """Returns a number, of 7 bits a byte, and the place behind it."""
        value = 0
        for i in range(10):
            (byte,) = self.read(start + i, 1)
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value, start + i + 1
        raise self.damaged("it has a number of more than 64 bits")

    def _text(self, values):
        place = self._place(values)
        if place.stop - place.start > TEXT_LIMIT:
            raise self.damaged(f"a name in it would have {len(place):,} bytes, and at most {TEXT_LIMIT:,} are read")
        try:
            return self.read(place.start, len(place)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged("a name in it is not valid UTF-8") from error

    def _place(self, values):
        """Returns the last one of a field's values, which must be a range of bytes."""
        if not values or not isinstance(values[-1], range):
            raise self.damaged("it has an entry without a name or a tensor")
        return values[-1]

    def written(self, tensors, has_checksum):
        checksum = 0
        for entry, blocks in tensors:
            for part in _values(entry, iter(blocks)):
                checksum = zlib.crc32(part, checksum) if has_checksum else 0
                yield part
        if has_checksum:
            yield CHECKSUM_MARK + checksum.to_bytes(CHECKSUM_BYTES - len(CHECKSUM_MARK), "big")


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
    dims = b"".join(_varint(1 << 3) + _varint(dim) for dim in entry.shape)
    tensor = dims + _field(2, entry.code.encode()) + _field(3, b"", length)
    return _field(1, _field(1, entry.name.encode()) + _field(2, tensor, length), length)


def _field(number, content, behind=0):
    """Returns a field with this content and the bytes `behind` it, which follow."""
    return _varint(number << 3 | 2) + _varint(len(content) + behind) + content


def _varint(number):
    head = b""
    while number > 127:
        head += bytes([number & 127 | 128])
        number >>= 7
    return head + bytes([number])
