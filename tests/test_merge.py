# SPDX-License-Identifier: Apache-2.0

"""``merge`` makes the whole checkpoint again of which the ranks have pieces."""

import math
import random
from pathlib import Path

import merging
import mindspore as ms
import numpy as np
import pytest
from merging import FORMATS, assert_same, cut, load, merged, save, save_ranks
from mindspore import Parameter, Tensor, nn
from mindspore.train import serialization
from nets import parameters_of

from mindspore_offload import AdamOffload
from mindspore_offload.checkpoints import checkpoint_file, ckpt_file
from mindspore_offload.commands import main, merge

RANKS = [1, 2, 3, 4, 8]


@pytest.fixture(scope="module")
def whole():
    return merging.trained()


@pytest.fixture
def two(whole, tmp_path):
    """Returns the paths of the checkpoints of two ranks."""
    return save_ranks(tmp_path, cut(whole, 2))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("ranks", RANKS)
def test_the_whole_checkpoint_has_the_same_bits_for_any_number_of_ranks(ranks, suffix, whole, tmp_path):
    """Cut again for each other number and merged again, too. The order of the files does not matter."""
    paths = save_ranks(tmp_path, cut(whole, ranks), suffix)
    random.Random(ranks).shuffle(paths)
    result = merged(paths, tmp_path / f"whole.{suffix}")
    assert_same(result, whole)
    for others in RANKS:
        folder = tmp_path / f"{others}"
        folder.mkdir()
        assert_same(merged(save_ranks(folder, cut(result, others), suffix), folder / f"whole.{suffix}"), whole)


def new_training(optimizer=AdamOffload):
    net = nn.SequentialCell(nn.Dense(200, 100), nn.BatchNorm1d(100))
    adam = optimizer(net.trainable_params(), learning_rate=0.01)
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), adam).set_train()


@pytest.fixture(scope="module")
def trained_cell():
    training = new_training()
    training(Tensor(np.eye(4, 200, dtype=np.float32)), Tensor(np.ones((4, 100), np.float32)))
    return parameters_of(training)


@pytest.mark.parametrize("optimizer", [AdamOffload, nn.Adam])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_training_cell_loads_it_strictly(suffix, optimizer, trained_cell, tmp_path, capsys):
    """The statistics of the batch norm differ on the ranks. Those of rank 0 are taken, which one line says."""
    saved = trained_cell
    ranks = cut(saved, 4)
    assert ranks[3]["moment1.0.weight"].shape == (5120,)
    for rank in (1, 2):
        ranks[rank]["1.moving_mean"] = saved["1.moving_mean"] + rank
    ranks[3]["1.moving_variance"] = saved["1.moving_variance"] + 1
    output = tmp_path / f"whole.{suffix}"
    merged(save_ranks(tmp_path, ranks, suffix), output)
    length = sum(value.nbytes for value in saved.values())
    assert capsys.readouterr().out.splitlines() == [
        f"'{output}': {length:,} bytes of tensors from 4 ranks, after step 1",
        "Different on the ranks, and taken from rank 0: '1.moving_mean', '1.moving_variance'",
    ]

    resumed = new_training(optimizer)
    loaded = ms.load_checkpoint(str(output), format=suffix)
    assert ms.load_param_into_net(resumed, loaded, strict_load=True) == ([], [])
    result = parameters_of(resumed)
    assert result.keys() == saved.keys()
    for name, value in saved.items():
        assert result[name].tobytes() == value.tobytes(), name


class Training(nn.Cell):
    """A training cell of the user's. It prefixes the names of the optimizers, and of nets that come after them."""

    def __init__(self, is_net_first):
        super().__init__()
        nets = [nn.Dense(200, 100), nn.Dense(100, 200)]  # pieces of the weights have the same size
        optimizers = [AdamOffload(net.trainable_params()) for net in nets]
        if is_net_first:
            self.first_net, self.second_net = nets
        self.first, self.second = optimizers
        if not is_net_first:
            self.first_net, self.second_net = nets


class Holder(nn.Cell):
    """Another cell around it. It prefixes all names once more."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell


PREFIXED = {
    "net-first": (lambda: Training(True), "", "first.weight"),
    "net-last": (lambda: Training(False), "", "first_net.weight"),
    "held": (lambda: Holder(Training(True)), "cell.", "cell.first_net.weight"),
    "held-twice": (lambda: Holder(Holder(Training(False))), "cell.cell.", "cell.cell.first.weight"),
}


@pytest.mark.parametrize(("training", "prefix", "weight"), PREFIXED.values(), ids=PREFIXED)
def test_the_parameters_of_prefixed_states_are_found(training, prefix, weight, tmp_path):
    """Where the optimizers have the same names for their parameters, the shapes of the biases tell the nets apart."""
    saved = parameters_of(training())
    assert {weight, f"{prefix}first.moment1.weight", f"{prefix}second.moment1.weight"} <= saved.keys()
    for value in saved.values():
        value += np.random.default_rng(1).standard_normal(value.shape).astype(value.dtype)
    paths = save_ranks(tmp_path, cut(saved, 3, [f"{prefix}first.", f"{prefix}second."]))
    assert_same(merged(paths, tmp_path / "whole.ckpt"), saved)


def test_large_tensors_come_in_several_parts(whole, tmp_path, monkeypatch):
    """MindSpore cuts them into parts of 512 MiB. Here, it reads and writes parts of a few kB."""
    monkeypatch.setattr(serialization, "SLICE_SIZE", 5)
    paths = save_ranks(tmp_path, cut(whole, 3))
    assert Path(paths[0]).read_bytes().count(b"moment1.net.f") > 3
    monkeypatch.setattr(ckpt_file, "PART_BYTES", 7000)
    assert_same(merged(paths, tmp_path / "whole.ckpt"), whole)
    assert (tmp_path / "whole.ckpt").read_bytes().count(b"moment1.net.f") == math.ceil(64 * 3 * 11 * 11 * 2 / 7000)


def test_values_of_the_user_are_kept(whole, tmp_path, monkeypatch, capsys):
    """Texts, of which the second one begins with the first one, numbers, and a dtype that no optimizer has."""
    monkeypatch.setattr(checkpoint_file, "BLOCK_BYTES", 4 * len("first"))
    paths = []
    for rank, tensors in enumerate(cut(whole, 2)):
        saved = [{"name": name, "data": Parameter(Tensor(array), name=name)} for name, array in tensors.items()]
        paths.append(str(tmp_path / f"rank{rank}.ckpt"))
        notes = {"text": "first" if rank == 0 else "first and more", "epoch": 3, "done": True, "rate": 0.5}
        ms.save_checkpoint(saved, paths[-1], append_dict={**notes, "ids": Tensor(np.arange(5, dtype=np.int64))})
    assert main(["merge", *paths, "-o", str(tmp_path / "whole.ckpt")]) == 0
    assert capsys.readouterr().out.endswith("Different on the ranks, and taken from rank 0: 'text'\n")
    saved, loaded = (ms.load_checkpoint(str(path)) for path in (paths[0], tmp_path / "whole.ckpt"))
    assert loaded["text"] == "first"
    for name in ("epoch", "done", "rate", "ids"):
        assert (loaded[name].shape, loaded[name].dtype) == (saved[name].shape, saved[name].dtype)
        np.testing.assert_array_equal(loaded[name].asnumpy(), saved[name].asnumpy())


def test_many_names_that_differ_are_counted(whole, tmp_path, capsys):
    ranks = cut(whole, 2)
    for i in range(8):
        for rank in (0, 1):
            ranks[rank][f"mean{i}"] = np.full(3, rank, np.float32)
    merged(save_ranks(tmp_path, ranks), tmp_path / "whole.ckpt")
    assert capsys.readouterr().out.endswith("rank 0: 'mean0', 'mean1', 'mean2', 'mean3', 'mean4' and 3 others\n")


def test_the_result_has_a_checksum_if_all_files_have(whole, tmp_path):
    ranks = cut(whole, 2)
    output = tmp_path / "whole.ckpt"
    merged(save_ranks(tmp_path, ranks, crc_check=True), output)
    assert_same(load(output, crc_check=True), whole)
    content = bytearray(output.read_bytes())
    content[len(content) // 2] ^= 1
    output.write_bytes(content)
    with pytest.raises(ValueError, match="Failed to read the checkpoint file"):
        load(output, crc_check=True)
    save(tmp_path / "rank1.ckpt", ranks[1])
    merged([tmp_path / "rank0.ckpt", tmp_path / "rank1.ckpt"], output, "--overwrite")
    assert b"crc_num" not in output.read_bytes()


def test_progress_is_printed(two, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(merge, "SECONDS", 0)
    merged(two, tmp_path / "whole.ckpt")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "... 0.0 of 0.0 GB"
    assert set(lines) == {"... 0.0 of 0.0 GB"}
