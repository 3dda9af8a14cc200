# SPDX-License-Identifier: Apache-2.0

"""``estimate --checkpoint`` refuses damaged and hostile files in one line, with bounded memory and time."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_bytes import entry, field, header, long_field, tensor, varint
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Parameter, Tensor, save_checkpoint

from mindspore_offload import commands
from mindspore_offload.commands import main
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import sizes

SOURCE_TREE = Path(commands.__file__).parents[2]


def two_tensors(offsets):
    return tensor()[:-1] + ", " + tensor(offsets=offsets, name='"v"')[1:]


SAFETENSORS = {
    "empty": (b"", "it is empty"),
    "seven-bytes": (bytes(7), "it ends too early"),
    "no-tensors": (header("{}"), "has no weights"),
    "header-cut": (header(tensor(), 8)[:30], "it ends too early"),
    "values-cut": (header(tensor(), 7), "8 bytes together, and must fill the 7 bytes behind"),
    "values-too-many": (header(tensor(), 9), "8 bytes together, and must fill the 9 bytes behind"),
    "header-of-2**64": (b"\xff" * 8 + b"{}", "18,446,744,073,709,551,615 bytes, and at most 16,777,216 are read"),
    "no-json": (header("nothing"), "not a valid object of JSON"),
    "no-text": (header(b'{"\xff": {}}'), "not a valid object of JSON"),
    "list": (header("[]"), "not a valid object of JSON"),
    "deep-lists": (header("[" * 10**6), "not a valid object of JSON"),
    "deep-objects": (header('{"a":' * 10**6), "not a valid object of JSON"),
    "twice": (header(tensor()[:-1] + ", " + tensor()[1:], 8), "a name occurs twice"),
    "number": (header('{"w": 5}'), "the entry of the tensor 'w' is not one of a tensor"),
    "no-shape": (header('{"w": {"dtype": "F32", "data_offsets": [0, 8]}}', 8), "is not one of a tensor"),
    "shape-of-text": (header(tensor('"2"'), 8), "dimensions, which are whole numbers"),
    "negative": (header(tensor("[-2]"), 8), r"the tensor 'w' of float32 and shape \[-2\]"),
    "two-negatives": (header(tensor("[-2, -1]"), 8), r"the tensor 'w' of float32 and shape \[-2, -1\]"),
    "fraction": (header(tensor("[2.0]"), 8), r"the tensor 'w' of float32 and shape \[2.0\]"),
    "nan": (header(tensor("[NaN]"), 8), r"the tensor 'w' of float32 and shape \[nan\]"),
    "infinite": (header(tensor("[1e999]"), 8), r"the tensor 'w' of float32 and shape \[inf\]"),
    "true": (header(tensor("[true, 2]"), 8), r"the tensor 'w' of float32 and shape \[True, 2\]"),
    "huge": (header(tensor("[2305843009213693954]"), 8), "has 8 bytes"),
    "huge-product": (header(tensor("[" + "4611686018427387904," * 9 + "2]"), 8), "has 8 bytes"),
    "many-digits": (header(tensor("[" + "9" * 10**6 + "]"), 8), r"the tensor 'w' of float32 and shape \[9{20}\]"),
    "many-dims": (header(tensor("[" + "1," * 10**6 + "2]"), 8), "at most 64 dimensions"),
    "offsets-in-reverse": (header(tensor(offsets="[8, 0]"), 8), "is not one of a tensor"),
    "offsets-of-text": (header(tensor(offsets='["0", "8"]'), 8), "is not one of a tensor"),
    "negative-offset": (header(tensor("[4]", offsets="[-8, 8]"), 8), "16 bytes together, and must fill the 8 bytes"),
    "overlap": (header(two_tensors("[4, 12]"), 16), "16 bytes together, and must fill the 16 bytes"),
    "apart": (header(two_tensors("[9, 17]"), 16), "16 bytes together, and must fill the 16 bytes"),
    "dtype-of-a-list": (header(tensor(dtype="[]"), 8), "is not one of a tensor"),
}
CKPT = {
    "empty": (b"", "it is empty"),
    "text": (b"import mindspore\n" * 100, "is not a checkpoint of MindSpore"),
    "zip": (b"PK\x03\x04" + bytes(100), "is not a checkpoint of MindSpore"),
    "zeros": (bytes(1000), "is not a checkpoint of MindSpore"),
    "cut": (entry()[:-1], "in the middle of a field"),
    "name-of-other-bytes": (entry(name=b"\xff"), "without a name in UTF-8"),
    "entry-of-2**60": (varint(10) + varint(2**60) + bytes(100), "in the middle of a field"),
    "no-end-of-a-number": (varint(10) + b"\xff" * 10**6, "more than 64 bits"),
    "no-name": (field(1, field(2, field(2, b"Float32"))), "an entry without a tensor or without a name"),
    "name-is-a-number": (field(1, field(1, 5)), "an entry without a tensor or without a name"),
    "tensor-is-a-number": (field(1, field(1, b"w") + field(2, 5)), "an entry without a tensor or without a name"),
    "long-name": (entry(name=b"w" * 10**6), "1,000,000 bytes, and at most 65,536 are read"),
    "negative": (entry([2**64 - 2]), "dimensions, which are whole numbers"),
    "packed": (entry([b"\x02"]), "dimensions, which are whole numbers"),
    "huge": (entry([2**62] * 9), "has 8 bytes"),
    "too-small": (entry([1]), "has 8 bytes"),
    "many-dims": (entry([1] * 10**5), "64 fields or more"),
    "many-fields": (field(1, field(4, 0) * 10**6), "64 fields or more"),
    "many-entries": (field(1, field(1, b"") + field(3, b"")) * (2**18 + 1), "262,144 fields or more"),
}
HOSTILE = [
    *((f"{name}.safetensors", content, message) for name, (content, message) in SAFETENSORS.items()),
    *((f"{name}.ckpt", content, message) for name, (content, message) in CKPT.items()),
]


@pytest.mark.parametrize(("name", "content", "message"), HOSTILE, ids=[name for name, _, _ in HOSTILE])
def test_a_bad_file_is_refused_in_one_line(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["estimate", "--checkpoint", str(path), "--host-gb-s", "10"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fifo", "it is empty, or not a regular file"),
        ("folder", "Is a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("device", "it is empty, or not a regular file"),
        ("nothing", "No such file or directory"),
    ],
)
def test_a_path_that_is_no_regular_file_is_refused(kind, message, suffix, tmp_path):
    path = tmp_path / f"{kind}.{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with pytest.raises(CommandError, match=message):
        sizes.of_checkpoint(str(path))


# Reads files with limits on the memory and the CPU time of the process. Reading all that the files claim to hold would
# exceed them.
LIMITED = """
import json, resource, sys
from mindspore_offload.planning import sizes
from mindspore_offload.errors import CommandError

resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
results = {}
for path in sys.argv[1:]:
    try:
        results[path] = sizes.of_checkpoint(path)
    except CommandError as error:
        results[path] = str(error)
print(json.dumps(results))
"""

TB = 10**12
SMALL = tensor("[2]", offsets="[0, 8]")
LARGE = header(tensor("[1000, 250000000]", offsets=f"[0, {TB}]"))


def large_entry():
    """Returns the beginning of a .ckpt file with the same tensor as `LARGE`."""
    dims = field(1, 1000) + field(1, 250_000_000) + field(2, b"Float32") + long_field(3, TB)
    value = field(1, b"w") + long_field(2, len(dims) + TB) + dims
    return long_field(1, len(value) + TB) + value


# The beginning of each file, and its size. The part that is not written reads as zeros and takes no space.
BAD = {
    "header.safetensors": (struct.pack("<Q", TB - 8), "999,999,999,992 bytes, and at most 16,777,216 are read"),
    "spaces.safetensors": (
        header(SMALL + " " * (2**24 - len(SMALL))),
        "8 bytes together, and must fill the 999,983,222,776 bytes",
    ),
    "lists.safetensors": (header('{"w": [' + "{}," * (2**24 // 3 - 10) + "{}]}"), "is not one of a tensor"),
    "name.ckpt": (long_field(1, TB - 7) + long_field(1, TB - 14), "a part of it would have"),
    "zeros.ckpt": (b"", "does not consist of the entries"),
}
WHOLE = {"whole.safetensors": LARGE, "whole.ckpt": large_entry()}


@pytest.fixture(scope="module")
def read_with_limits(tmp_path_factory):
    """Returns what is read of files of a terabyte, by their names. One process reads them all."""
    folder = tmp_path_factory.mktemp("terabyte")
    sizes_of_files = {name: (start, TB) for name, (start, _) in BAD.items()}
    sizes_of_files |= {name: (start, len(start) + TB) for name, start in WHOLE.items()}
    for name, (start, size) in sizes_of_files.items():
        (folder / name).write_bytes(start)
        os.truncate(folder / name, size)
    command = [sys.executable, "-c", LIMITED, *(str(folder / name) for name in sizes_of_files)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {Path(path).name: result for path, result in json.loads(run.stdout).items()}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_a_terabyte_is_refused_within_the_limits(name, read_with_limits):
    assert BAD[name][1] in read_with_limits[name]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_of_a_terabyte_is_read(name, read_with_limits):
    assert read_with_limits[name] == [[["w", 250 * 10**9, "float32", 2]], {}]


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """Returns the folder and the contents of two valid checkpoints, .ckpt and .safetensors, of several dtypes."""
    folder = tmp_path_factory.mktemp("whole")
    saved = [
        Parameter(Tensor(np.ones((3, 5), np.float32)), name="first.weight"),
        Parameter(Tensor(np.ones(7, np.float16)), name="second.weight"),
        Parameter(Tensor(np.ones(2, np.int32)), name="indices"),
        Parameter(Tensor(np.float32(1)), name="scale"),
    ]
    saved = [{"name": parameter.name, "data": parameter} for parameter in saved]
    contents = {}
    for kind, options in (("ckpt", {"crc_check": True}), ("safetensors", {"format": "safetensors"})):
        path = folder / f"whole.{kind}"
        save_checkpoint(saved, str(path), **options)
        contents[kind] = path.read_bytes()
    return folder, contents


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
def test_a_whole_file_is_read(kind, whole_files):
    folder, _ = whole_files
    weights, others = sizes.of_checkpoint(str(folder / f"whole.{kind}"))
    expected = {("first.weight", 15, "float32", 2), ("second.weight", 7, "float16", 1), ("scale", 1, "float32", 0)}
    assert set(weights) == expected
    assert list(others.values()) == [1]


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_holds_the_sizes_read(kind, whole_files, data):
    """Some bytes are replaced, then bytes are removed or inserted."""
    folder, contents = whole_files
    content = bytearray(contents[kind])
    for place, value in data.draw(st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255))).items():
        content[place] = value
    place = data.draw(st.integers(0, len(content)))
    content[place : data.draw(st.integers(place, len(content)))] = data.draw(st.binary(max_size=10))
    path = folder / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        weights, _ = sizes.of_checkpoint(str(path))
    except CommandError:
        return
    assert sum(ELEMENT_TYPES[size.dtype].size * size.size for size in weights) <= len(content)
