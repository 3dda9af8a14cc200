"""The sizes of a model's parameters, from a net or from a checkpoint, without the memory that they would take."""

import importlib
import json
import math
import os
import re
import struct
import sys

from mindspore_offload.commands.errors import CommandError, one_line
from mindspore_offload.footprint import BYTES, Size

# Besides weights, a checkpoint of a training has states of optimizers, and what normalization layers gather.
NO_WEIGHT = re.compile(
    r"(moments?[12]|master|adam_[mv])\..*|beta[12]_power|learning_rate(_group_\d+)?|global_(step|norm)|.*moving_(mean|variance)"
)
SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def of_net(spec):
    """The trained parameters of the net that ``module:function`` (or ``script.py:function``) returns."""
    module, _, function = spec.rpartition(":")
    if not module or not function:
        raise CommandError(f"--net must be module:function, as in models.llama:build, but got {spec!r}")
    folder = os.getcwd()
    if module.endswith(".py"):
        folder, module = os.path.split(os.path.abspath(module[: -len(".py")]))
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from mindspore import nn

    try:
        build = getattr(importlib.import_module(module), function)
        with _no_values():
            net = build()
    except (Exception, SystemExit) as error:
        raise CommandError(f"--net {spec} gives no net ({one_line(error)}); it is called without arguments") from error
    if not isinstance(net, nn.Cell) or not net.trainable_params():
        raise CommandError(f"--net {spec} must return a Cell with parameters, but got {type(net).__name__}")
    return [Size(p.name, p.size, str(p.dtype).lower()) for p in net.trainable_params()]


def _no_values():
    """Parameters that an initializer is to fill get no memory inside it."""
    try:
        from mindspore.nn.utils import no_init_parameters
    except ImportError as error:
        raise CommandError(
            "--net needs mindspore.nn.utils.no_init_parameters; give --params or --checkpoint"
        ) from error
    return no_init_parameters()


def of_checkpoint(path):
    """The weights in a checkpoint of MindSpore, or in a file of safetensors."""
    try:
        with open(path, "rb") as file:
            read = _safetensors if path.endswith(".safetensors") else _checkpoint
            sizes = read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise CommandError(f"--checkpoint {path} can't be read: {error.strerror}; give the path of a file") from error
    except (ValueError, EOFError, AttributeError, TypeError, KeyError) as error:
        raise CommandError(
            f"--checkpoint {path} is neither a whole checkpoint of MindSpore nor, by the name .safetensors, such a file"
        ) from error
    weights = [size for size in sizes if size.dtype in BYTES and size.size and not NO_WEIGHT.fullmatch(size.name)]
    if not weights:
        raise CommandError(f"--checkpoint {path} has no weights of {', '.join(BYTES)}; give one that has")
    return weights


def _safetensors(file, length):
    """A header in JSON comes first, after its length."""
    (header,) = struct.unpack("<Q", _exactly(file, 8))
    if header > length:
        raise EOFError
    tensors = json.loads(_exactly(file, header))
    tensors.pop("__metadata__", None)
    return [
        Size(name, math.prod(tensor["shape"]), SAFETENSORS_DTYPES.get(tensor["dtype"], tensor["dtype"]))
        for name, tensor in tensors.items()
    ]


# A checkpoint is a protocol buffer: Checkpoint has Values (field 1), a Value has a tag (1) and a tensor (2), and that
# has dims (1), a dtype (2) and its content (3). A library would read the contents too. A large tensor comes in several
# Values, each with the dims of the whole.


def _checkpoint(file, length):
    sizes = {}
    for number, value in _fields(file, 0, length):
        if number != 1 or not isinstance(value, range):
            raise ValueError("not a Value of a Checkpoint")
        fields = dict(_fields(file, value.start, value.stop))
        if 2 not in fields:  # a map of parameters, which no optimizer here takes
            continue
        name, dims, dtype = _text(file, fields[1]), [], ""
        for inner, content in _fields(file, fields[2].start, fields[2].stop):
            if inner == 1:
                dims.append(content)
            elif inner == 2:
                dtype = _text(file, content).lower()
        sizes[name] = Size(name, math.prod(dims), dtype)
    return list(sizes.values())


def _fields(file, start, stop):
    """The numbers and values of a message's fields: a whole number, or the range of bytes where a longer one is."""
    while start < stop:
        if stop - start == CHECKSUM_BYTES and _text(file, range(start, start + 7)) == "crc_num":
            return
        file.seek(start)
        key = _varint(file)
        if key & 7 == 0:
            value, start = _varint(file), file.tell()
        elif key & 7 == 2:
            size = _varint(file)
            value = range(file.tell(), file.tell() + size)
            start = value.stop
        else:
            raise ValueError("a field of no kind that a checkpoint has")
        if start > stop:
            raise EOFError
        yield key >> 3, value


CHECKSUM_BYTES = 17  # may end a checkpoint: "crc_num" and ten bytes


def _varint(file):
    value = shift = 0
    while True:
        (byte,) = _exactly(file, 1)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _text(file, place):
    file.seek(place.start)
    return _exactly(file, len(place)).decode("utf-8", "replace")


def _exactly(file, size):
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return content
