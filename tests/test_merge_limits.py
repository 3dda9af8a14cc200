# SPDX-License-Identifier: Apache-2.0

"""``merge`` needs little memory, leaves no file if it is interrupted, and survives damaged files."""

import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import merging
import numpy as np
import pytest
from checkpoint_bytes import field, header, long_field, tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from merging import FORMATS, cut, run, save_ranks

from mindspore_offload import commands

SOURCE_TREE = Path(commands.__file__).parents[2]


@pytest.fixture(scope="module")
def rank_files(tmp_path_factory):
    """Returns the folder, and by format the contents of the files of two ranks."""
    folder = tmp_path_factory.mktemp("damaged")
    kept = {
        name: array for name, array in merging.trained().items() if name.rsplit(".", 1)[-1] in ("b", "e", "global_step")
    }
    paths = {suffix: save_ranks(folder, cut(kept, 2), suffix) for suffix in FORMATS}
    return folder, {suffix: [Path(path).read_bytes() for path in paths[suffix]] for suffix in FORMATS}


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_file_is_merged_or_refused_in_one_line(suffix, rank_files, data):
    """Some bytes are replaced, then bytes are removed or inserted."""
    folder, contents = rank_files
    content = bytearray(contents[suffix][1])
    # Half of the places are where the structure is, the others are among the values.
    places = st.integers(0, len(content) - 1) | st.integers(0, 900)
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=20)).items():
        content[place] = value
    place = data.draw(st.integers(0, len(content)))
    content[place : data.draw(st.integers(place, len(content)))] = data.draw(st.binary(max_size=10))
    path = folder / f"rank1.{suffix}"
    path.write_bytes(content)
    output = folder / f"whole.{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        errors = []
        patch.setattr(sys.stderr, "write", errors.append)
        status = run(folder / f"rank0.{suffix}", path, "-o", output)
    assert (status, "".join(errors).count("\n")) in [(0, 0), (2, 1)]
    assert output.exists() == (status == 0)
    assert not list(folder.glob("*.tmp"))
    output.unlink(missing_ok=True)


# Prints the largest amount of memory that the program had, in kB.
MEASURED = """
import sys
from mindspore_offload.commands import main

status = main(sys.argv[1:])
assert not {"mindspore", "numpy"} & set(sys.modules)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(status)
"""
MB = 10**6


def sparse_ranks(folder, suffix, size, ranks=2):
    """Writes files of ranks with one parameter of `size` zeros and its moments, which take no space on the disk."""
    piece = 1024 * math.ceil(size / 1024 / ranks)
    tensors = {"global_step": (1, "I32"), "weight": (size, "F32"), "moment1.weight": (piece, "F32")}
    tensors |= {"moment2.weight": (piece, "F32"), "shard": (2, "I32")}
    paths = []
    for rank in range(ranks):
        paths.append(folder / f"rank{rank}.{suffix}")
        with open(paths[-1], "wb") as file:
            write = sparse_ckpt if suffix == "ckpt" else sparse_safetensors
            write(file, tensors)
            file.write(np.array([rank, ranks], np.int32).tobytes())
    return paths


def sparse_ckpt(file, tensors):
    for name, (count, dtype) in tensors.items():
        dtype = {"I32": b"Int32", "F32": b"Float32"}[dtype]
        content = field(1, count) + field(2, dtype) + long_field(3, 4 * count)
        value = field(1, name.encode()) + long_field(2, len(content) + 4 * count) + content
        file.write(long_field(1, len(value) + 4 * count) + value)
        file.seek(0 if name == "shard" else 4 * count, os.SEEK_CUR)


def sparse_safetensors(file, tensors):
    entries, end = [], 0
    for name, (count, dtype) in tensors.items():
        start, end = end, end + 4 * count
        entries.append(tensor(f"[{count}]", f'"{dtype}"', f"[{start}, {end}]", f'"{name}"')[1:-1])
    file.write(header("{" + ",".join(entries) + "}"))
    file.seek(end - 8, os.SEEK_CUR)


def set_up_program():
    """Restores a signal that this process ignores, as under nohup. Allows few open files, until the program asks."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def start_program(*command):
    """Starts Python in a process that `set_up_program` prepares."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_up_program,
    )


def without_progress(errors):
    """Returns the lines without those about progress, which a slow machine prints."""
    return [line for line in errors.splitlines() if not line.startswith("... ")]


@pytest.mark.parametrize(
    ("suffix", "size", "ranks"),
    [("ckpt", 12 * MB, 2), ("safetensors", 12 * MB, 2), ("ckpt", MB // 4, 64)],
    ids=["ckpt", "safetensors", "many-ranks"],
)
def test_the_memory_does_not_depend_on_sizes_and_ranks(suffix, size, ranks, tmp_path):
    """Neither MindSpore nor numpy is imported."""
    output = tmp_path / f"whole.{suffix}"
    program = start_program("-c", MEASURED, "merge", *sparse_ranks(tmp_path, suffix, size, ranks), "-o", output)
    printed, errors = program.communicate()
    assert (program.returncode, without_progress(errors)) == (0, [])
    assert 0 < output.stat().st_size - 12 * size < MB
    output.unlink()
    assert 1000 * int(printed.split()[-1]) < 40 * MB


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_no_file(number, tmp_path):
    paths = sparse_ranks(tmp_path, "ckpt", 2000 * MB)
    program = start_program("-m", "mindspore_offload", "merge", *paths, "-o", tmp_path / "whole.ckpt")
    while not list(tmp_path.glob("*.tmp")) and program.poll() is None:
        time.sleep(0.01)
    program.send_signal(number)
    printed, errors = program.communicate()
    assert (program.returncode, printed) == (130, "")
    assert without_progress(errors) == [
        f"python -m mindspore_offload merge: interrupted: '{tmp_path / 'whole.ckpt'}' was not written"
    ]
    assert sorted(tmp_path.iterdir()) == paths
