# SPDX-License-Identifier: Apache-2.0

"""Reads names, shapes, dtypes and places of the tensors in a checkpoint file, and none of their values.

The file may be damaged or made to do harm: everything in it is checked and has a limit. What a file says of itself
never decides how much is read or allocated.
"""

import json
import math
import struct
from typing import NamedTuple

from mindspore_offload.formats import ELEMENT_TYPES

METADATA = "__metadata__"  # in the header of a safetensors file, beside the tensors
CHECKSUM_TEXT = "crc_num"  # the name of the checksum in it
SAFETENSORS_DTYPES = {row.code: row.name for row in ELEMENT_TYPES.values()} | {"U8": "uint8"}

HEADER_LIMIT = 2**24  # bytes of a safetensors header, about 100 per tensor; parsing may need 30 times that in memory
TENSORS_LIMIT = 2**18  # entries of a .ckpt
TEXT_LIMIT = 2**16  # bytes of a name or a dtype in a .ckpt
DIMS_LIMIT = 64
MAP = "map"  # stands for the dtype of a map of parameters in a .ckpt
DIGITS_LIMIT = 20  # of a number in a header; 2**64 has as many


class BadFile(Exception):
    """A file that is not what its name says. The text says why."""


class Entry(NamedTuple):
    """A tensor in a checkpoint file.

    Attributes:
        name (str): Its name.
        shape (tuple[int]): Its shape.
        dtype (str): The name of its dtype in MindSpore, in lower case. An unknown dtype keeps the file's name for it.
        code (str): The file's name for its dtype.
        places (list[range]): The places of its bytes in the file, in their order.
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
        return sum(place.stop - place.start for place in self.places)


def safetensors(file, length):
    """Yields each tensor of a safetensors file: eight bytes of length, a header in JSON, the values."""
    tensors, start = _header(file)
    tensors.pop(METADATA, None)
    places = []
    for name, tensor in tensors.items():
        try:
            dtype, shape, (begin, end) = tensor["dtype"], list(tensor["shape"]), tensor["data_offsets"]
            in_order = 0 <= begin <= end
            code = f"{dtype}"
            dtype = SAFETENSORS_DTYPES.get(dtype, code)
        except (TypeError, KeyError, ValueError) as error:
            raise BadFile(f"the entry of the tensor {name!r:.60} is not one of a tensor") from error
        if not in_order:
            raise BadFile(f"the tensor {name!r:.60} begins at byte {begin} and ends at {end}")
        places.append(range(start + begin, start + end))
        yield _checked(Entry(name, shape, dtype, code, places[-1:]))
    total = sum(place.stop - place.start for place in places)
    if total != length - start:
        raise BadFile(f"its tensors have {total:,} bytes together, but {length - start:,} bytes follow its header")
    for place in sorted(places, key=lambda place: (place.start, place.stop)):
        if place.start != start:
            raise BadFile("the values of two of its tensors overlap, or are apart")
        start = place.stop


def metadata(file):
    """Returns the texts by name in the header of a safetensors file."""
    found = _header(file)[0].get(METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise BadFile(f"{METADATA} in its header is not an object of texts")
    return found


def _header(file):
    """Returns the header of a safetensors file, and the place where the values begin."""
    file.seek(0)
    (size,) = struct.unpack("<Q", _exactly(file, 8))
    if size > HEADER_LIMIT:
        raise BadFile(f"its header would have {size:,} bytes, and at most {HEADER_LIMIT:,} are read")
    header = _exactly(file, size)
    try:
        tensors = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise BadFile("its header is not valid JSON") from error
    if not isinstance(tensors, dict):
        raise BadFile("its header is not a JSON object")
    return tensors, 8 + size


def _unique(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadFile("a name occurs twice in its header")
    return found


def _whole_number(text):
    if len(text) > DIGITS_LIMIT:
        raise BadFile(f"a number in its header has more than {DIGITS_LIMIT} digits")
    return int(text)


def _no_number(text):
    raise BadFile(f"its header has the number {text:.20}, and all must be whole numbers")


# A .ckpt is a protocol buffer: a Checkpoint has Values (field 1), a Value has a tag (1) and a tensor (2), and a tensor
# has dims (1), a dtype (2) and its content (3). The protobuf library would read the contents too.


def ckpt(file, length):
    """Yields each tensor of a MindSpore checkpoint.

    A large tensor comes in several Values, one after the other, each with the dims of the whole.
    """
    last = None
    for number, value in _fields(file, 0, length - len(checksum_field(file, length)), TENSORS_LIMIT):
        if number != 1 or not isinstance(value, range):
            raise BadFile("it does not consist of the entries of a checkpoint")
        entry = _value(file, value)
        if last and last.name == entry.name:
            last.places.extend(entry.places)
            last = entry._replace(places=last.places)
            continue
        if last:
            yield _checked(last)
        last = entry
    if last:
        yield _checked(last)


def _value(file, place):
    """Returns the tensor in a Value, unchecked."""
    fields = dict(_fields(file, place.start, place.stop, DIMS_LIMIT))
    name, dims, code, places = _text(file, fields.get(1)), [], MAP, []
    if 2 in fields:  # else a map of parameters, which no optimizer here updates
        place = _place(fields[2])
        for number, value in _fields(file, place.start, place.stop, DIMS_LIMIT):
            if number == 1:
                dims.append(value)
            elif number == 2:
                code = _text(file, value)
            elif number == 3:
                places = [_place(value)]
    if dims == [0] and places and places[0]:  # as MindSpore saves a shape of ()
        dims = []
    return Entry(name, dims, code.lower(), code, places)


CHECKSUM_NAME, CHECKSUM_BYTES = CHECKSUM_TEXT.encode(), 17  # the name, and a number of ten bytes


def checksum_field(file, length):
    """Returns the last bytes of a .ckpt, with the checksum of the bytes before; b"" if it has none."""
    if length < CHECKSUM_BYTES:
        return b""
    file.seek(length - CHECKSUM_BYTES)
    field = _exactly(file, CHECKSUM_BYTES)
    return field if field.startswith(CHECKSUM_NAME) else b""


def _fields(file, start, stop, limit):
    """Yields the number and the value of each field of a message: a whole number, or the range of its bytes."""
    count = 0
    while start < stop:
        count += 1
        if count > limit:
            raise BadFile(f"a part of it has more than {limit:,} fields")
        file.seek(start)
        key = _varint(file)
        if key & 7 == 0:
            value, start = _varint(file), file.tell()
        elif key & 7 == 2:
            size = _varint(file)
            start = file.tell() + size
            value = range(start - size, start)
        else:
            raise BadFile("it has a field of a kind that no checkpoint has")
        if start > stop:
            raise BadFile("it ends, or a part of it ends, in the middle of a field")
        yield key >> 3, value


def _varint(file):
    value = shift = 0
    while shift < 64:
        (byte,) = _exactly(file, 1)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
    raise BadFile("it has a number of more than 64 bits")


def _place(value):
    if not isinstance(value, range):
        raise BadFile("it has an entry without a name or a tensor")
    return value


def _text(file, value):
    place = _place(value)
    if len(place) > TEXT_LIMIT:
        raise BadFile(f"a name in it would have {len(place):,} bytes, and at most {TEXT_LIMIT:,} are read")
    file.seek(place.start)
    try:
        return _exactly(file, len(place)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile("a name in it is not valid UTF-8") from error


def _exactly(file, size):
    content = file.read(size)
    if len(content) < size:
        raise BadFile("it ends too early")
    return content


def _checked(entry):
    """Returns a tensor whose shape fits its bytes."""
    name, shape, dtype = entry.name, entry.shape, entry.dtype
    if len(shape) > DIMS_LIMIT:
        raise BadFile(f"the tensor {name!r:.60} has more than {DIMS_LIMIT} dimensions")
    # bool is a subclass of int, and -1 as a varint is 2**64 - 1.
    if not all(type(dim) is int and 0 <= dim < 2**63 for dim in shape):
        raise BadFile(f"the shape of the tensor {name!r:.60} is {shape!r:.60}; dimensions are whole numbers from 0 on")
    if dtype in ELEMENT_TYPES and entry.size * ELEMENT_TYPES[dtype].size != entry.length:
        raise BadFile(f"the tensor {name!r:.60} of {dtype} and shape {shape!r:.60} has {entry.length!r:.60} bytes")
    return entry._replace(shape=tuple(shape))
