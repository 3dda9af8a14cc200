# SPDX-License-Identifier: Apache-2.0

"""States that the ranks share: the same bits as with whole states, after a resume too, and what is refused."""

import json

import mindspore as ms
import msrun
import numpy as np
import pages
import pytest
import sharded
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload, AdamWOffload, commands


def start(part, folder, ranks):
    """Runs a part of sharded.py on so many ranks. Returns what each of them found, or nothing if they were killed.

    A rank writes what it found at the end of its program. The exit status of msrun is not checked: rarely, it is 1
    although all ranks have got there without an error. The cause is not known; the printed output of msrun names it.
    """
    msrun.run(sharded.__file__, folder, ranks, part, folder)
    found = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{part} *.json"))]
    assert len(found) == (0 if part == "save" else ranks)
    return found


@pytest.fixture(scope="module", params=[2, 3], ids="{}-ranks".format)
def compared(request, tmp_path_factory):
    return start("compare", tmp_path_factory.mktemp("compared"), request.param)


@pytest.mark.parametrize("scenario", sharded.SCENARIOS)
def test_the_same_bits_as_with_whole_states(compared, scenario):
    if scenario not in compared[0]:
        assert len(compared) > 2
        assert scenario not in sharded.ON_MORE_RANKS
        pytest.skip("compared on two ranks only")
    for of_rank in compared:
        found = of_rank[scenario]
        assert found["moved"]
        assert found["same losses"]
        assert found["same names"]
        assert not found["differing"]
        sharded_weights = {name.split(".")[1] for name in found["pieces"]}
        assert sharded_weights == {"weight0", "weight2", "weight4"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    start("save", folder, 2)
    assert len(list(folder.glob("*of 2.ckpt"))) == 2 * 2 * len(sharded.RESUMED)
    return folder


def test_all_ranks_killed_and_resumed(saved):
    found = start("resume", saved, 2)
    for of_rank in found:
        for name in sharded.RESUMED:
            assert of_rank[name] == {"missing": [], "same losses": True, "differing": []}, name


def merged(folder, name, ranks):
    """Merges the files of all ranks into one, and returns the bits of its tensors."""
    whole = folder / f"{name}.ckpt"
    files = [str(folder / f"{name} {rank} of {ranks}.ckpt") for rank in range(ranks)]
    assert commands.main(["merge", *files, "-o", str(whole), "--overwrite"]) == 0
    loaded = ms.load_checkpoint(str(whole))
    return {key: value.astype(ms.float32).asnumpy().tobytes() for key, value in loaded.items()}


def test_the_files_of_cells_that_hold_the_optimizer_are_merged(saved):
    """Their states have a prefix, and the weights another one."""
    for name in sharded.RESUMED:
        whole = merged(saved, name, 2)
        cells = {key: "net" if key.startswith("weight") else "optimizer" for key in whole}
        assert merged(saved, f"held {name}", 2) == {f"net.{cells[key]}.{key}": value for key, value in whole.items()}


def test_other_numbers_of_ranks_load_the_merged_file(saved):
    """The files of two ranks make a whole one. What three ranks load of it makes the same one again."""
    whole = {name: merged(saved, name, 2) for name in sharded.RESUMED}
    found = start("load", saved, 3)
    assert found == [{name: [["shard"], []] for name in sharded.RESUMED}] * 3
    for name in sharded.RESUMED:
        assert "moment1.weight0" in whole[name]
        assert merged(saved, name, 3) == whole[name]


def test_what_differs_between_ranks_is_refused_on_each(tmp_path):
    found = start("refuse", tmp_path, 2)
    for rank, messages in enumerate(found):
        for name in ("shapes", "number", "arguments", "rates"):
            assert messages[name].startswith("ValueError: For 'AdamOffload', the optimizers of all ranks must have")
        assert "the same shapes of the parameters" in messages["shapes"]
        assert "the same number of parameters" in messages["number"]
        assert "the same arguments" in messages["arguments"]
        assert "'weight0' of rank 1 is not that of rank 0; call mindspore.set_seed" in messages["values"]
        expected = f"must be that of rank {rank} of 2, but got that of rank {1 - rank} of 2"
        assert expected in messages["file of another rank"]
        assert "python -m mindspore_offload merge" in messages["file of a rank in a whole optimizer"]


def test_placement_report_counts_pieces(tmp_path):
    """float16 parameters: float32 gradients and old values go to the host, new values come back. Counters go, too."""
    found = start("placement", tmp_path, 2)
    for of_rank in found:
        to_host, to_device, interconnect = of_rank["bytes"]
        pieces, small = of_rank["pieces"], of_rank["small"]
        assert 0 <= to_host - 6 * (pieces + small) < 100
        assert to_device == 2 * (pieces + small)
        assert interconnect == 2 * pieces
        assert "from other devices, a step" in of_rank["table"]


def test_the_example_of_the_guide(tmp_path):
    """It runs with msrun, and its files merge into one that loads into an optimizer with whole states."""
    program = tmp_path / "train.py"
    program.write_text("\n\n".join(pages.code("en", "devices", "python")))
    msrun.run(program, tmp_path, 2)
    for rank in range(2):
        printed = (tmp_path / "log" / f"worker_{rank}.log").read_text()
        assert f"rank {rank} holds 131,072 of 262,144 elements" in printed
    merged = tmp_path / "whole.ckpt"
    assert commands.main(["merge", *(str(tmp_path / f"rank{rank}.ckpt") for rank in range(2)), "-o", str(merged)]) == 0
    net = nn.SequentialCell(nn.Dense(512, 512), nn.Dense(512, 10))
    whole = AdamOffload(net.trainable_params())
    assert ms.load_param_into_net(whole, ms.load_checkpoint(str(merged)), strict_load=True) == ([], [])
    assert whole.moment1[0].asnumpy().any()


@pytest.mark.parametrize("optimizer", [AdamOffload, AdamWOffload])
def test_without_communication(optimizer):
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name="w")]
    with pytest.raises(
        RuntimeError, match=rf"For '{optimizer.__name__}', the argument 'shard_states' can be True only"
    ):
        optimizer(parameters, shard_states=True)


def test_wrong_values():
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name="w")]
    with pytest.raises(TypeError, match="the argument 'shard_states' must be a bool, but got 1 of type int"):
        AdamOffload(parameters, shard_states=1)
    with pytest.raises(ValueError, match="the argument 'host_kernel' must be 'auto' or 'native' if 'shard_states' is"):
        AdamOffload(parameters, shard_states=True, host_kernel="stock")


def test_one_rank_has_whole_states(tmp_path):
    (found,) = start("alone", tmp_path, 1)
    assert found["shapes"] == [list(shape) for shape in sharded.SHAPES]
    assert "shard" not in found["names"]
