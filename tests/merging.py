# SPDX-License-Identifier: Apache-2.0

"""Files of ranks for the tests of ``merge``.

The pieces are cut here, with numpy and figures of their own.
"""

import math
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from nets import parameters_of

from mindspore_offload import AdamOffload
from mindspore_offload.commands import main

FORMATS = ["ckpt", "safetensors"]


def pieces(array, ranks):
    """Returns the piece of each rank, padded with zeros; the array itself for each if it is small.

    Moments of 8 bits are rows, each of 256 elements.
    """
    if array.dtype == np.uint8 and ranks > 1 and 256 * len(array) >= 16384:
        rows = 4 * math.ceil(len(array) / 4 / ranks)
        padded = np.zeros((rows * ranks, 260), np.uint8)
        padded[: len(array)] = array
        return list(padded.reshape(ranks, rows, 260))
    if ranks == 1 or array.size < 16384:
        return [array] * ranks
    piece = 1024 * math.ceil(array.size / 1024 / ranks)
    padded = np.zeros(piece * ranks, array.dtype)
    padded[: array.size] = array.reshape(-1)
    return list(padded.reshape(ranks, piece))


def cut(whole, ranks, prefixes=("",)):
    """Returns the tensors that each rank would save, by name. The names of an optimizer's states may have a prefix."""
    states = tuple(f"{prefix}{kind}." for prefix in prefixes for kind in ("moment1", "moment2", "master"))
    found = [{} for _ in range(ranks)]
    for name, array in whole.items():
        parts = pieces(array, ranks) if name.startswith(states) else [array] * ranks
        for rank, part in enumerate(parts):
            found[rank][name] = part
    for rank, tensors in enumerate(found):
        tensors |= {f"{prefix}shard": np.array([rank, ranks], np.int32) for prefix in prefixes}
    return found


def save(path, tensors, **options):
    saved = [{"name": name, "data": Parameter(Tensor(array), name=name)} for name, array in tensors.items()]
    ms.save_checkpoint(saved, str(path), format=path.suffix[1:], **options)
    path.chmod(0o600)
    return str(path)


def load(path, **options):
    loaded = ms.load_checkpoint(str(path), format=Path(path).suffix[1:], **options)
    return {name: value.asnumpy() for name, value in loaded.items()}


def save_ranks(folder, ranks, suffix="ckpt", **options):
    """Saves the tensors of each rank, and returns the paths in the order of the ranks."""
    return [save(folder / f"rank{rank}.{suffix}", tensors, **options) for rank, tensors in enumerate(ranks)]


def merged(paths, output, *options):
    assert main(["merge", *map(str, paths), "-o", str(output), *options]) == 0
    return load(output)


def assert_same(actual, expected):
    """Checks names, shapes, dtypes and bits."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert (value.shape, value.dtype) == (expected[name].shape, expected[name].dtype), name
        assert value.tobytes() == expected[name].tobytes(), name


def trained(moment_dtype=ms.bfloat16):
    """Returns the tensors of a trained optimizer: sizes around the bounds, three dtypes, a state of each name."""
    shapes = {"a": (130, 127), "b": (2**14,), "c": (2**14 - 1,), "d": (), "e": (3, 5), "f": (64, 3, 11, 11)}
    dtypes = {"b": ms.bfloat16, "e": ms.float16, "f": ms.float16}
    numbers = np.random.default_rng(5)
    parameters = [
        Parameter(Tensor(numbers.standard_normal(shape), dtypes.get(name, ms.float32)), name=f"net.{name}")
        for name, shape in shapes.items()
    ]
    optimizer = AdamOffload(parameters, skip_nonfinite=True, moment_dtype=moment_dtype)
    for _ in range(2):
        optimizer(tuple(Tensor(numbers.standard_normal(p.shape), p.dtype) for p in parameters))
    return parameters_of(optimizer)


def run_command(*arguments):
    """Runs a command and returns its exit status."""
    try:
        return main(arguments)
    except SystemExit as error:  # argparse ends so
        return error.code


def run(*arguments):
    """Runs ``merge`` and returns its exit status."""
    return run_command("merge", *map(str, arguments))


def assert_refused(arguments, message, capsys):
    """Checks that the command ends with this message, in one line, and has written nothing."""
    folder = Path(arguments[0]).parent
    before = {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.iterdir()}
    capsys.readouterr()
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.iterdir()} == before
