# SPDX-License-Identifier: Apache-2.0

"""Reads names, shapes and dtypes from a checkpoint file, and none of its values.

The file may be damaged or made to do harm: everything in it is checked and has a limit. What a file says of itself
never decides how much is read or allocated.
"""

import json
import math
import struct

from mindspore_offload.dtypes import ELEMENT_TYPES
from mindspore_offload.footprint import Size

SAFETENSORS_DTYPES = {row.code: row.name for row in ELEMENT_TYPES.values()}

HEADER_LIMIT = 2**24  # bytes of a safetensors header, about 100 per tensor; parsing may need 30 times that in memory
TENSORS_LIMIT = 2**18  # entries of a .ckpt
TEXT_LIMIT = 2**16  # bytes of a name or a dtype in a .ckpt
DIMS_LIMIT = 64
DIGITS_LIMIT = 20  # of a number in a header; 2**64 has as many


class BadFile(Exception):
    """A file that is not what its name says. The text says why."""


def safetensors(file, length):
    """Yields the size of each tensor of a safetensors file: eight bytes of length, a header in JSON, the values."""
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
    tensors.pop("__metadata__", None)
    values, total = length - 8 - size, 0
    for name, tensor in tensors.items():
        try:
            dtype, shape, (begin, end) = tensor["dtype"], list(tensor["shape"]), tensor["data_offsets"]
            in_order = 0 <= begin <= end
            dtype = SAFETENSORS_DTYPES.get(dtype, f"{dtype}")
        except (TypeError, KeyError, ValueError) as error:
            raise BadFile(f"the entry of the tensor {name!r:.60} is not one of a tensor") from error
        if not in_order:
            raise BadFile(f"the tensor {name!r:.60} begins at byte {begin} and ends at {end}")
        yield _checked(name, shape, dtype, end - begin)
        total += end - begin
    if total != values:
        raise BadFile(f"its tensors have {total:,} bytes together, but {values:,} bytes follow its header")


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
    """Yields the size of each tensor of a MindSpore checkpoint.

    A large tensor comes in several Values, one after the other, each with the dims of the whole.
    """
    stop = length - CHECKSUM_BYTES if _has_checksum(file, length) else length
    last, content = None, 0
    for number, value in _fields(file, 0, stop, TENSORS_LIMIT):
        if number != 1 or not isinstance(value, range):
            raise BadFile("it does not consist of the entries of a checkpoint")
        tensor, size = _value(file, value)
        if last and last[0] != tensor[0]:
            yield _checked(*last, content)
            content = 0
        last, content = tensor, content + size
    if last:
        yield _checked(*last, content)


def _value(file, place):
    """Returns the name, the dims and the dtype of a Value, and the number of bytes of its content."""
    fields = dict(_fields(file, place.start, place.stop, DIMS_LIMIT))
    name, dims, dtype, content = _text(file, fields.get(1)), [], "map", 0
    if 2 not in fields:  # a map of parameters, which no optimizer here updates
        return (name, dims, dtype), content
    place = _place(fields[2])
    for number, value in _fields(file, place.start, place.stop, DIMS_LIMIT):
        if number == 1:
            dims.append(value)
        elif number == 2:
            dtype = _text(file, value).lower()
        elif number == 3:
            content = len(_place(value))
    if dims == [0] and content:  # as MindSpore saves a shape of ()
        dims = []
    return (name, dims, dtype), content


CHECKSUM_BYTES = 17  # "crc_num" and a number of ten bytes


def _has_checksum(file, length):
    if length < CHECKSUM_BYTES:
        return False
    file.seek(length - CHECKSUM_BYTES)
    return file.read(7) == b"crc_num"


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
    return _exactly(file, len(place)).decode("utf-8", "replace")


def _exactly(file, size):
    content = file.read(size)
    if len(content) < size:
        raise BadFile("it ends too early")
    return content


def _checked(name, shape, dtype, content):
    """Returns the size of a tensor whose shape fits its `content`, in bytes."""
    if len(shape) > DIMS_LIMIT:
        raise BadFile(f"the tensor {name!r:.60} has more than {DIMS_LIMIT} dimensions")
    # bool is a subclass of int, and -1 as a varint is 2**64 - 1.
    if not all(type(dim) is int and 0 <= dim < 2**63 for dim in shape):
        raise BadFile(f"the shape of the tensor {name!r:.60} is {shape!r:.60}; dimensions are whole numbers from 0 on")
    size = math.prod(shape)
    if dtype in ELEMENT_TYPES and size * ELEMENT_TYPES[dtype].size != content:
        raise BadFile(f"the tensor {name!r:.60} of {dtype} and shape {shape!r:.60} has {content!r:.60} bytes")
    return Size(name, size, dtype)
