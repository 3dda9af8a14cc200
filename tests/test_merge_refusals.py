# SPDX-License-Identifier: Apache-2.0

"""``merge`` refuses in one line what does not fit together, and then leaves no file."""

import os
import resource
import sys
from pathlib import Path

import merging
import numpy as np
import pytest
from checkpoint_bytes import entry, field
from merging import FORMATS, assert_refused, assert_same, cut, load, merged, run, save, save_ranks

from mindspore_offload.commands import merge
from mindspore_offload.commands.merge import named_at_the_end


@pytest.fixture(scope="module")
def whole():
    return merging.trained()


@pytest.fixture
def two(whole, tmp_path):
    """Returns the paths of the checkpoints of two ranks."""
    return save_ranks(tmp_path, cut(whole, 2))


def test_wrong_sets_of_files_are_refused(whole, tmp_path, capsys):
    paths = save_ranks(tmp_path, cut(whole, 4))
    (tmp_path / "of_two").mkdir()
    others = save_ranks(tmp_path / "of_two", cut(whole, 2))
    plain = save(tmp_path / "plain.ckpt", whole)
    output = ["-o", tmp_path / "whole.ckpt"]
    assert_refused([*paths[:2], paths[3], *output], "rank 2 of 4 is missing", capsys)
    assert_refused([paths[1], *output], "rank 0 of 4 is missing", capsys)
    assert_refused([*paths, paths[1], *output], f"rank 1 of 4 is in both {paths[1]!r} and {paths[1]!r}", capsys)
    assert_refused(
        [*paths[:3], others[1], *output], f"the number of ranks is 2 in {others[1]!r}, but 4 in {paths[0]!r}", capsys
    )
    assert_refused([plain, *output], f"{plain!r} was not saved by an optimizer with shard_states=True", capsys)
    assert_refused([*paths[:3], plain, *output], f"{plain!r} was not saved by", capsys)
    assert_refused([*paths[:3], tmp_path / "rank4.ckpt", *output], "No such file or directory", capsys)
    assert_refused(output, "the following arguments are required: FILE", capsys)
    assert_refused([*paths], "the following arguments are required: -o/--output", capsys)


def test_wrong_outputs_are_refused(two, tmp_path, capsys):
    output = tmp_path / "whole.ckpt"
    expected = merged(two, output)
    assert_refused([*two, "-o", output], f"-o '{output}' exists; give another path, or --overwrite", capsys)
    assert_refused([*two, "-o", two[1], "--overwrite"], f"-o {two[1]!r} is one of the files to merge", capsys)
    link = tmp_path / "link.ckpt"
    link.symlink_to(two[0])
    assert_refused([*two, "-o", link, "--overwrite"], "is one of the files to merge", capsys)
    (tmp_path / "folder.ckpt").mkdir()
    assert_refused([*two, "-o", tmp_path / "folder.ckpt", "--overwrite"], "is not a regular file", capsys)
    assert_refused([*two, "-o", tmp_path / "none" / "whole.ckpt"], "No such file or directory", capsys)
    assert_refused([*two, "-o", tmp_path / "whole"], "-o must end in .ckpt or .safetensors, but got", capsys)
    assert_refused([*two, "-o", tmp_path / "whole.safetensors"], "must be of the same format", capsys)
    output.write_bytes(b"old")
    assert_same(merged(two, output, "--overwrite"), expected)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_a_file_that_appears_meanwhile_is_not_replaced(links, two, tmp_path, monkeypatch, capsys):
    """Some file systems have no hard links."""
    output = tmp_path / "whole.ckpt"
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: os.stat("no such file"))
    expected = merged(two, output)
    output.unlink()
    monkeypatch.setattr(os, "fsync", lambda _: output.write_bytes(b"other"))
    assert run(*two, "-o", output) == 2
    assert f"-o '{output}' exists; give another path, or --overwrite\n" in capsys.readouterr().err
    assert output.read_bytes() == b"other"
    assert sorted(map(str, tmp_path.iterdir())) == [*two, str(output)]
    assert_same(merged(two, output, "--overwrite"), expected)


def test_a_left_temporary_file_is_no_obstacle(tmp_path):
    """A merge that was killed leaves one. In a container, the next one often has the same process id."""
    output = tmp_path / "whole.ckpt"
    with named_at_the_end(output, True) as left, named_at_the_end(output, True) as file:
        file.write(b"whole")
        left.write(b"left")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.ckpt"]


def test_a_result_that_can_not_be_reported_is_complete(whole, two, tmp_path, monkeypatch, capsys):
    """Progress that can't be printed changes nothing."""
    output = tmp_path / "whole.ckpt"
    monkeypatch.setattr(merge, "SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert run(*two, "-o", output) == 2
    assert f"the standard output can't be written: it is closed; '{output}' is complete\n" in capsys.readouterr().err
    assert_same(load(output), whole)
    output.unlink()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert_same(merged(two, output), whole)


def test_a_full_disk_leaves_no_file(two, tmp_path, capsys):
    """A limit on the size of a file stands for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert_refused([*two, "-o", tmp_path / "whole.ckpt"], "whole.ckpt' can't be written: File too large", capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def changed(name, change):
    """Returns a function that changes a tensor of the last rank."""

    def apply(ranks):
        ranks[-1][name] = change(ranks[-1][name])

    return apply


def everywhere(name, change):
    def apply(ranks):
        for tensors in ranks:
            tensors[name] = change(tensors[name])

    return apply


def removed(name, *indices):
    """Returns a function that removes a tensor from these ranks."""

    def apply(ranks):
        for rank in indices:
            del ranks[rank][name]

    return apply


def plus(value):
    return lambda array: (array.astype(np.float32) + value).astype(array.dtype)


def shifted(rank, ranks):
    return lambda array: array + np.array([rank, ranks], np.int32)


def last_element(array):
    array = array.copy()
    array[-1] = 1
    return array


def longer(array):
    return np.zeros(array.size + 1024, array.dtype)


def two_parameters(ranks):
    """Renames a parameter, and adds another one, of which the pieces would be as long."""
    for tensors in ranks:
        tensors["first.net.a"] = tensors.pop("net.a")
        tensors["second.net.a"] = tensors["first.net.a"].T


DIFFERENT = {
    "step": (
        changed("global_step", plus(1)),
        "the step is 3 in '",
        "rank1.ckpt', but 2 in '",
        "rank0.ckpt'; give the files",
    ),
    "weight": (
        changed("net.a", plus(1)),
        "'net.a' in '",
        "rank1.ckpt' differs from that in '",
        "must be the same on all",
    ),
    "weight-16-bit": (changed("net.f", plus(1)), "'net.f' in '", "differs from that in"),
    "small-moment": (changed("moment2.net.c", plus(1)), "'moment2.net.c' in '", "differs from that in"),
    "small-master": (changed("master.net.e", plus(1)), "'master.net.e' in '", "differs from that in"),
    "power": (changed("beta1_power", plus(1)), "'beta1_power' in '", "differs from that in"),
    "rate": (changed("learning_rate", plus(1)), "'learning_rate' in '", "differs from that in"),
    "norm": (changed("global_norm", plus(1)), "'global_norm' in '", "differs from that in"),
    "skipped": (changed("skipped_steps", plus(1)), "'skipped_steps' in '", "differs from that in"),
    "name-too-few": (
        removed("net.a", 0),
        "'net.a' is Float32 of shape (130, 127) in '",
        "rank1.ckpt', but missing in '",
        "rank0.ckpt'",
    ),
    "state-missing": (
        removed("master.net.b", 1),
        "'master.net.b' is missing in '",
        "rank1.ckpt', but Float32 of shape (8192,) in '",
        "rank0.ckpt'",
    ),
    "shape": (
        changed("net.c", lambda a: a[:-1]),
        "'net.c' is Float32 of shape (16382,) in '",
        "rank1.ckpt', but Float32 of shape (16383,) in '",
    ),
    "dtype": (
        changed("net.c", np.int32),
        "'net.c' is Int32 of shape (16383,) in '",
        "but Float32 of shape (16383,) in",
    ),
    "piece-too-long": (
        changed("moment1.net.a", longer),
        "'moment1.net.a' is BFloat16 of shape (10240,) in '",
    ),
    "pieces-too-long": (
        everywhere("moment1.net.a", longer),
        "is BFloat16 of shape (10240,), but must be float32 or bfloat16 or uint8, and of shape (9216,)",
        " on each of 2 ranks",
    ),
    "piece-of-a-small-one": (
        everywhere("moment1.net.e", lambda a: np.zeros(1024, a.dtype)),
        "is BFloat16 of shape (1024,), but must be float32 or bfloat16 or uint8, and of shape (3, 5) on each of 2",
    ),
    "dtype-of-a-moment": (
        everywhere("moment1.net.a", np.float16),
        "is Float16 of shape (9216,), but must be float32 or bfloat16 or uint8, and of shape (9216,)",
    ),
    "dtype-of-a-master": (
        everywhere("master.net.f", np.float16),
        "is Float16 of shape (12288,), but must be float32, and of shape (12288,)",
    ),
    "padding": (
        changed("moment2.net.a", last_element),
        "rank1.ckpt' is not a checkpoint of MindSpore, or is damaged: the",
    ),
    "no-parameter": (removed("net.a", 0, 1), "has the moments of 'net.a', but no parameter of that name"),
    "two-parameters": (two_parameters, "has the moments of 'net.a', but several parameters of that name"),
    "no-step": (removed("global_step", 0, 1), "has no 'shard' with a 'global_step'"),
    "no-shard": (removed("shard", 0, 1), "has no 'shard' with a 'global_step'", "by mindspore.unified_safetensors"),
    "shard-of-floats": (everywhere("shard", np.float32), "'shard' must have 8 bytes of int32"),
    "shard-of-three": (everywhere("shard", lambda a: np.zeros(3, np.int32)), "'shard' must have 8 bytes of int32"),
    "rank-too-high": (everywhere("shard", shifted(2, 0)), "its 'shard' is {(2, 2)}, and must be"),
    "rank-negative": (everywhere("shard", shifted(-5, 0)), "its 'shard' is {(-5, 2)}, and must be"),
    "no-ranks": (everywhere("shard", lambda a: a * 0), "its 'shard' is {(0, 0)}, and must be"),
    "many-ranks": (everywhere("shard", shifted(0, 2**31 - 3)), "rank 2 of 2147483647 is missing"),
    "step-of-floats": (everywhere("global_step", np.float32), "'global_step' must have 4 bytes of int32"),
}


@pytest.mark.parametrize(("change", "messages"), [(c, m) for c, *m in DIFFERENT.values()], ids=DIFFERENT)
def test_files_that_do_not_fit_together_are_refused(change, messages, whole, tmp_path, capsys):
    ranks = cut(whole, 2)
    change(ranks)
    paths = save_ranks(tmp_path, ranks)
    for message in messages:
        assert_refused([*paths, "-o", tmp_path / "whole.ckpt"], message, capsys)


def test_an_empty_state_is_no_piece(two, tmp_path, capsys):
    """MindSpore writes none. Of two entries of a name, the last one counts."""
    for path in two:
        with open(path, "ab") as file:
            file.write(entry([0], b"BFloat16", b"", b"moment1.net.e"))
    message = "'moment1.net.e' is BFloat16 of shape (0,), but must be float32 or bfloat16 or uint8, and of shape (3, 5)"
    assert_refused([*two, "-o", tmp_path / "whole.ckpt"], message, capsys)


def test_metadata_that_are_no_texts_are_refused(whole, tmp_path, capsys):
    paths = save_ranks(tmp_path, cut(whole, 2), "safetensors")
    content = Path(paths[0]).read_bytes()
    assert content.count(b'{"format":"ms"}') == 1
    Path(paths[0]).write_bytes(content.replace(b'{"format":"ms"}', b'{"format":[  ]}'))
    assert_refused(
        [*paths, "-o", tmp_path / "whole.safetensors"], "__metadata__ in its header is not an object", capsys
    )


def test_a_map_of_parameters_is_refused(two, tmp_path, capsys):
    for path in two:
        with open(path, "ab") as file:
            file.write(field(1, field(1, b"table") + field(3, b"")))
    message = "has a map of parameters, 'table', which can't be merged"
    assert_refused([*two, "-o", tmp_path / "whole.ckpt"], message, capsys)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_checksum_finds_every_changed_byte(suffix, whole, tmp_path, capsys):
    """Also in values that may differ on the ranks. MindSpore's checksum of a safetensors file is of the values only."""
    small = {name: array for name, array in whole.items() if array.size < 100 and array.dtype != whole["net.b"].dtype}
    small["mean"] = np.arange(50, dtype=np.float32)
    ranks = cut(small, 2)
    paths = save_ranks(tmp_path, ranks, suffix, crc_check=True)
    output = tmp_path / f"whole.{suffix}"
    assert_same(merged(paths, output), small)
    output.unlink()
    content = Path(paths[1]).read_bytes()
    start = 0 if suffix == "ckpt" else content.index(b"}}") + 8
    for place in range(start, len(content), 7):
        flipped = bytearray(content)
        flipped[place] ^= 4
        Path(paths[1]).write_bytes(flipped)
        assert run(*paths, "-o", output) == 2, place
        assert capsys.readouterr().err.count("\n") == 1
    assert not output.exists()
