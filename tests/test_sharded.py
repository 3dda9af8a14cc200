# SPDX-License-Identifier: Apache-2.0

"""States that the ranks share: the same bits as with whole states, after a resume too, and what is refused."""

import json
import re

import mindspore as ms
import msrun
import numpy as np
import pages
import pytest
import sharded
from mindspore import Parameter, Tensor, nn
from sharded_checks import WAYS_OF_SAVING
from sharded_compare import ON_MORE_RANKS
from sharded_resume import CONVERTED, RESUMED
from sharded_training import SCENARIOS, SHAPES, Net, new_optimizer

from mindspore_offload import AdamOffload, AdamWOffload, commands
from mindspore_offload.distributed import ranks


def start(part, folder, count):
    """Runs a part of sharded.py on so many ranks. Returns what each of them found, or nothing if they were killed.

    A rank writes what it found at the end of its program. If it crashes after that, the exit status shows it.
    """
    is_killed = part == "save"
    assert (msrun.run(sharded.__file__, folder, count, part, folder) != 0) == is_killed
    found = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{part} *.json"))]
    assert len(found) == (0 if is_killed else count)
    return found


@pytest.fixture(scope="module", params=[2, 3, pytest.param(4, marks=pytest.mark.full)], ids="{}-ranks".format)
def compared(request, tmp_path_factory):
    """Returns what the ranks found, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("compared")
    return start("compare", folder, request.param), folder


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_bits_as_with_whole_states(compared, scenario):
    of_ranks, folder = compared
    if scenario not in of_ranks[0]:
        assert len(of_ranks) > 2
        assert scenario not in ON_MORE_RANKS
        pytest.skip("compared on two ranks only")
    for of_rank in of_ranks:
        found = of_rank[scenario]
        assert found["moved"]
        assert found["same losses"]
        assert found["same names"]
        assert not found["differing"]
        sharded_weights = {name.split(".")[1] for name in found["pieces"]}
        kept = {"weight2"} if scenario == "some on the device" else set()
        assert sharded_weights == {"weight0", "weight2", "weight4"} - kept
    merged(folder, scenario, len(of_ranks))
    whole = (folder / f"{scenario} whole.ckpt").read_bytes()
    assert (folder / f"{scenario}.ckpt").read_bytes() == whole


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.full)], ids="{}-ranks".format)
def saved(request, tmp_path_factory):
    """Returns the number of ranks that saved and were killed, and their folder."""
    folder = tmp_path_factory.mktemp("saved")
    start("save", folder, request.param)
    assert len(list(folder.glob(f"*of {request.param}.ckpt"))) == 2 * request.param * len(RESUMED)
    return request.param, folder


def test_all_ranks_killed_and_resumed(saved):
    count, folder = saved
    for of_rank in start("resume", folder, count):
        for name in RESUMED:
            assert of_rank[name] == {"missing": [], "same losses": True, "differing": []}, name


def merged(folder, name, count):
    """Merges the files of all ranks into one, and returns the bits of its tensors."""
    whole = folder / f"{name}.ckpt"
    files = [str(folder / f"{name} {rank} of {count}.ckpt") for rank in range(count)]
    assert commands.main(["merge", *files, "-o", str(whole), "--overwrite"]) == 0
    return bits_of(ms.load_checkpoint(str(whole)))


def bits_of(tensors):
    return {key: value.astype(ms.float32).asnumpy().tobytes() for key, value in tensors.items()}


def test_the_files_of_cells_that_hold_the_optimizer_are_merged(saved):
    """Their states have a prefix, and the weights another one."""
    count, folder = saved
    for name in RESUMED:
        whole = merged(folder, name, count)
        cells = {key: "net" if key.startswith("weight") else "optimizer" for key in whole}
        held = {f"net.{cells[key]}.{key}": value for key, value in whole.items()}
        assert merged(folder, f"held {name}", count) == held


def test_other_numbers_of_ranks_load_the_merged_file(saved):
    """The files of two ranks make a whole one. What three ranks load of it makes the same one again.

    With moments in another format it makes what an optimizer with whole states loads of it.
    """
    count, folder = saved
    others = 5 - count
    whole = {name: merged(folder, name, count) for name in RESUMED}
    for name, (source, dtype) in CONVERTED.items():
        optimizer, _ = new_optimizer(source, False, moment_dtype=dtype)
        ms.load_param_into_net(optimizer, ms.load_checkpoint(str(folder / f"{source}.ckpt")), strict_load=True)
        whole[name] = bits_of({each.name: each for each in optimizer.get_parameters()})
    found = start("load", folder, others)
    assert found == [{name: [["shard"], []] for name in whole}] * others
    for name, expected in whole.items():
        assert "moment1.weight0" in expected
        assert merged(folder, name, others) == expected


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    return start("check", tmp_path_factory.mktemp("checked"), 2)


def test_optimizers_that_differ_are_refused_on_each_rank(checked):
    for of_rank in checked:
        messages = of_rank["differing"]
        for name, what in {
            "shapes": "shapes of the parameters",
            "dtypes": "dtypes of the parameters",
            "names": "names of the parameters",
            "number": "number of parameters",
        }.items():
            expected = f"ValueError: For 'AdamOffload', the optimizers of all ranks must have the same {what} if"
            assert messages[name].startswith(expected)
        assert "the optimizers of all ranks must have the same class" in messages["class"]
        expected = (
            "have the same values of 'weight0' if .* got others on rank 1 than on rank 0; call mindspore.set_seed"
        )
        assert re.search(expected, messages["values"])


def test_arguments_that_differ_are_refused_on_each_rank(checked):
    for of_rank in checked:
        assert len(of_rank["differing arguments"]) > 70
        for argument, kind, message in of_rank["differing arguments"]:
            assert f"must have the same argument '{argument}' if 'shard_states' is True" in message, kind


def test_all_ways_of_saving(checked):
    for of_rank in checked:
        assert of_rank["saved"] == {way: [[], []] for way in WAYS_OF_SAVING}


def test_wrong_files_are_refused_on_each_rank(checked):
    for rank, of_rank in enumerate(checked):
        messages = of_rank["files"]
        assert f"must be that of rank {rank} of 2, but got that of rank {1 - rank} of 2" in messages["of another rank"]
        assert "python -m mindspore_offload merge" in messages["of a rank, in a whole optimizer"]
        steps = re.search(r"rank 0 has taken (\d+) steps and rank 1 (\d+);", messages["of another step"]).groups()
        assert int(steps[1]) == int(steps[0]) + 1
        assert messages["changed"] == []


def test_gradients_that_were_not_reduced_are_refused_on_each_rank(checked):
    for of_rank in checked:
        assert "all ranks must get the same gradients, but those of rank 1 are not" in of_rank["not reduced"]


def test_weights_are_broadcast_and_redundancy_is_not_removed(checked):
    """All ranks begin with the weights of rank 0. The first attempt to save is refused, before there is a file."""
    for of_rank in checked:
        found = of_rank["broadcast"]
        assert "'remove_redundancy' must be False, but got True" in found["error"]
        assert found["steps"] == 1
        assert found["files"] == []
        assert found["weights"] == checked[0]["broadcast"]["weights"]


def test_placement_report_counts_pieces(checked):
    """float16 parameters: float32 gradients and old values go to the host, new values come back.

    Counters go, too, and the few numbers that the ranks compare.
    """
    for of_rank in checked:
        found = of_rank["placement"]
        pieces, small = found["pieces"], found["small"]
        expected = 6 * (pieces + small), 2 * (pieces + small), 2 * pieces
        for moved, at_least in zip(found["bytes"], expected):
            assert 0 <= moved - at_least < 1_000
        assert "from other devices, a step" in found["table"]


def test_the_example_of_the_guide(tmp_path):
    """It runs with msrun, and its files merge into one that loads into an optimizer with whole states.

    If a rank lacks the newest checkpoint, all ranks choose the one before.
    """
    program = tmp_path / "train.py"
    use, resume = pages.code("en", "devices", "python")
    program.write_text(f"{use}\n\n{resume}")
    assert msrun.run(program, tmp_path, 2) == 0
    for rank in range(2):
        printed = (tmp_path / "log" / f"worker_{rank}.log").read_text()
        assert f"rank {rank} holds 131,072 of 262,144 elements" in printed
    (tmp_path / "checkpoints" / "rank1" / "3.ckpt").unlink()
    guide = {"get_group_size": lambda: 2}
    exec(resume.partition("own =")[0], guide)
    assert guide["newest_step"](tmp_path / "checkpoints") == 2
    assert guide["newest_step"](tmp_path) == 0
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
        RuntimeError, match=rf"For '{optimizer.__name__}', the argument 'shard_states' must be False if .* not init"
    ):
        optimizer(parameters, shard_states=True)


def test_wrong_values():
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name="w")]
    with pytest.raises(TypeError, match="the argument 'shard_states' must be a bool, but got 1 of type int"):
        AdamOffload(parameters, shard_states=1)
    with pytest.raises(ValueError, match="the argument 'host_kernel' must be 'auto' or 'native' if 'shard_states' is"):
        AdamOffload(parameters, shard_states=True, host_kernel="stock")


def test_one_rank_has_whole_states(monkeypatch):
    monkeypatch.setattr(ranks, "is_communicating", lambda: True)
    monkeypatch.setattr(ranks, "get_rank", lambda: 0)
    monkeypatch.setattr(ranks, "get_group_size", lambda: 1)
    optimizer = AdamOffload(Net([ms.float32]).trainable_params(), shard_states=True)
    assert [tuple(each.shape) for each in optimizer.moment1] == SHAPES
    assert "shard" not in [each.name for each in optimizer.get_parameters()]


@pytest.mark.parametrize("feature", ranks.RESTORING)
def test_ranks_that_mindspore_restores_from_others_are_refused(monkeypatch, feature):
    monkeypatch.setenv("MS_ENABLE_TFT", f"{{TSP:1,{feature}}}")
    with pytest.raises(RuntimeError, match=f"True while MS_ENABLE_TFT is '{{TSP:1,{feature}}}'"):
        AdamOffload([Parameter(Tensor(np.ones(3, np.float32)), name="w")], shard_states=True)
