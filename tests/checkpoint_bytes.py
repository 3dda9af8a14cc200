# SPDX-License-Identifier: Apache-2.0

"""Writes checkpoints byte by byte, so that tests can make damaged and hostile ones."""

import struct


def header(text, values=0):
    """Returns the bytes of a .safetensors file with this header."""
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text)) + text + bytes(values)


def tensor(shape="[2]", dtype='"F32"', offsets="[0, 8]", name='"w"'):
    return f'{{{name}: {{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}}}'


def varint(number):
    return bytes([number]) if number < 128 else bytes([number % 128 + 128]) + varint(number // 128)


def field(number, content):
    """Returns a field of a protocol buffer; its content is a whole number or bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(dims=(2,), dtype=b"Float32", content=bytes(8), name=b"w"):
    """Returns an entry of a .ckpt file."""
    dims = b"".join(field(1, dim) for dim in dims)
    return field(1, field(1, name) + field(2, dims + field(2, dtype) + field(3, content)))


def long_field(number, length):
    """Returns the beginning of a field of `length` bytes."""
    return varint(number << 3 | 2) + varint(length)
