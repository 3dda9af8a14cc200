# SPDX-License-Identifier: Apache-2.0

"""The examples train for a few steps in this process. The full tests run each as a program and check its claims."""

import argparse
import difflib
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import msrun
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
PNG = b"\x89PNG"

pytestmark = pytest.mark.newest("the environment of the oldest MindSpore lacks the packages of the examples")


@pytest.fixture
def load(monkeypatch):
    """Imports an example. Afterwards, its modules are forgotten: their names are short, and others may have them.

    The device stays as it is, because MindSpore refuses to set it in a process that has run something.
    """
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(ms, "set_device", lambda target: None)
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def run(load, monkeypatch, tmp_path):
    """Runs the main function of an example in this process, which has imported MindSpore already."""

    def main(example, *options):
        monkeypatch.setattr(sys, "argv", [f"{example}.py", *options, f"--output={tmp_path}"])
        load(example).main()

    return main


@pytest.fixture
def two_batches(load, monkeypatch):
    """Lets an epoch of the scanned digits have two batches."""
    digits = load("digits")
    load_batches = digits.load_batches

    def load_two_batches(seed):
        training, test = load_batches(seed)
        return training.take(2), test

    monkeypatch.setattr(digits, "load_batches", load_two_batches)


def test_an_epoch_of_the_quick_start(load, monkeypatch, capsys):
    train = ms.Model.train
    monkeypatch.setattr(ms.Model, "train", lambda model, epochs, *others, **named: train(model, 1, *others, **named))
    load("quick_start")
    accuracy = re.search(r"test accuracy (\d+\.\d)%", capsys.readouterr().out)[1]
    assert float(accuracy) > 30  # 10 by chance


@pytest.mark.usefixtures("two_batches")
def test_two_steps_of_digits(load):
    digits = load("digits")
    monitor = digits.train(digits.OURS, epochs=1, seed=1)
    assert len(monitor.losses) == 2
    assert 0 < monitor.accuracies[0] < 1
    assert monitor.state_bytes == 8


def test_two_steps_of_the_language_model(load, monkeypatch):
    """The loss scale is so large that both overflow. The validation has one batch."""
    monkeypatch.setattr(load("text"), "HELD_OUT", 200)
    options = {"epochs": 1, "seed": 1, "device_target": "CPU", "steps": 2, "layers": 1, "width": 12}
    options |= {"min_offload_size": 1000, "characters": 0}
    trained = load("language_model").train("float16", argparse.Namespace(**options))
    assert trained.skipped == 2
    assert trained.validation[2] == pytest.approx(math.log(256), rel=0.05)  # bytes are equally likely before a step
    assert trained.footprint.device_states > 0


def test_a_gan_resumes_after_a_step(run, tmp_path, capsys):
    run("gan", "--steps=2")
    printed = capsys.readouterr().out
    losses = re.findall(r"step +2   loss: (generator .+, discriminator .+)", printed)
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert "Both trainings ended with the same bits" in printed
    assert (tmp_path / "gan.png").read_bytes().startswith(PNG)


def test_two_steps_of_the_interrupted_training(load, run, tmp_path):
    run("interrupted", "--steps=2", f"--folder={tmp_path}")
    losses = load("interrupted").read_losses(tmp_path)
    assert [step for step, _ in losses] == [1, 2]
    assert all(0 < loss < 10 for _, loss in losses)


@pytest.mark.parametrize("optimizer", ["adam_offload", "adam"])
def test_migration_is_one_line(optimizer):
    before, after = ((EXAMPLES / f"migration_{optimizer}_{name}.py").read_text() for name in ("before", "after"))
    changed = [line[0] for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert changed == ["-", "+"]


@pytest.mark.usefixtures("two_batches")
def test_a_migrated_training_continues(run, capsys):
    for program in ("migration_adam_before", "migration_adam_after"):
        run(program, "--epochs=1")
    rows = re.findall(r"^(\S+): step +(\d+)   loss", capsys.readouterr().out, re.MULTILINE)
    assert [(module.partition(".")[0], int(step)) for module, step in rows] == [
        ("mindspore", 2),
        ("mindspore_offload", 4),
    ]


def test_data_parallel_without_msrun_says_how(run):
    with pytest.raises(SystemExit, match="msrun has to start it: msrun --worker_num=2"):
        run("data_parallel")


def test_a_device_that_mindspore_was_not_built_for(run, monkeypatch):
    def refuse(target):
        raise RuntimeError(f"no {target} here. And more text")

    monkeypatch.setattr(ms, "set_device", refuse)
    message = r"interrupted.py: error: this MindSpore can't use --device-target Ascend \(no Ascend here\); install"
    with pytest.raises(SystemExit, match=message):
        run("interrupted", "--device-target=Ascend")


def start(example, *arguments):
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{example}.py"), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process):
    """Waits for the process, checks that it succeeded, and returns its output."""
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, printed + errors
    return printed


@pytest.mark.full
def test_digits(tmp_path):
    printed = output(start("digits", "--epochs=1", f"--output={tmp_path}"))
    assert "The losses of both AdamOffload agree" in printed
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG)


@pytest.mark.full
def test_language_model(tmp_path):
    """The run is long enough for the loss scale to fall, and for the net to learn which bytes are frequent."""
    printed = output(
        start(
            *("language_model", "--steps=48", "--layers=1", "--width=48", "--characters=20"),
            *("--min-offload-size=1000", f"--output={tmp_path}"),
        )
    )
    assert "step    1   skipped: a gradient overflowed with loss scale 2,097,152" in printed
    rows = re.findall(r"^(float\d\d) +(\d\.\d+) +(\d+) +(\d[\d,]*)$", printed, re.MULTILINE)
    (_, float16, skipped, _), (_, float32, none, _) = rows
    places = re.findall(r"^(float\d\d)" + 5 * r" +(\d+\.\d)" + "$", printed, re.MULTILINE)
    assert [row[0] for row in rows] == [row[0] for row in places] == ["float16", "float32"]
    half, full = (np.array(row[1:], float) for row in places)
    np.testing.assert_allclose(half[[0, 1, 3]] / full[[0, 1, 3]], [0.5, 0.5, 1.5], rtol=0.2)
    assert 1 <= int(skipped) <= 12
    assert none == "0"
    assert float(float16) < 4.5  # log(256) = 5.55 before the first step
    assert float(float16) == pytest.approx(float(float32), rel=0.1)  # behind by the skipped steps
    assert (tmp_path / "language_model.png").read_bytes().startswith(PNG)


@pytest.mark.full
def test_quick_start():
    printed = output(start("quick_start"))
    assert float(re.search(r"test accuracy (\d+\.\d)%", printed)[1]) > 85


@pytest.mark.full
def test_gan(tmp_path):
    printed = output(start("gan", "--steps=40", f"--output={tmp_path}"))
    losses = re.findall(r"step +40   loss: (generator .+, discriminator .+)", printed)
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert "Again from step 20," in printed
    assert "Both trainings ended with the same bits" in printed
    assert (tmp_path / "gan.png").read_bytes().startswith(PNG)


@pytest.mark.full
def test_data_parallel(tmp_path):
    assert msrun.run(EXAMPLES / "data_parallel.py", tmp_path, 2, "--steps=8", f"--output={tmp_path}") == 0
    for rank in range(2):
        printed = (tmp_path / "log" / f"worker_{rank}.log").read_text()
        threads, cores = re.search(rf"worker {rank} of 2: AdamOffload has (\d+) of (\d+) cores", printed).groups()
        assert int(threads) == max(1, int(cores) // 2)
        assert "weights and states are the same bits on all workers" in printed
    assert "One process with the joint batches has the same losses" in (tmp_path / "log" / "worker_0.log").read_text()


@pytest.mark.full
def test_interrupted(tmp_path):
    printed = output(start("interrupted", "--steps=40", f"--output={tmp_path}"))
    killed = int(re.search(r"killed after step (\d+)", printed)[1])
    resumed = int(re.search(r"went on at step (\d+)", printed)[1])
    assert 1 < resumed <= killed + 1 <= 40
    assert "Both ended with the same bits in all weights and states" in printed
    assert (tmp_path / "interrupted.png").read_bytes().startswith(PNG)


@pytest.mark.full
@pytest.mark.parametrize("optimizer", ["adam_offload", "adam"])
def test_migration(optimizer, tmp_path):
    """After the first epoch, the old and the new program continue from copies of the same checkpoint."""
    before, after = (f"migration_{optimizer}_{name}" for name in ("before", "after"))
    output(start(before, "--epochs=1", f"--output={tmp_path}"))
    checkpoint = tmp_path / f"migration_{optimizer}.ckpt"
    copy = tmp_path / "copy" / checkpoint.name
    copy.parent.mkdir()
    copy.write_bytes(checkpoint.read_bytes())
    programs = [
        start(before, "--epochs=1", f"--output={tmp_path}"),
        start(after, "--epochs=1", f"--output={copy.parent}"),
    ]
    old, new = (re.fullmatch(r"(\S+): step +178   loss (\S+)\n", output(program)) for program in programs)
    assert old[1].startswith("mindspore.nn.")
    assert new[1].startswith("mindspore_offload.")
    # With new moments, the loss would differ in the second digit.
    assert float(new[2]) == pytest.approx(float(old[2]), rel=1e-4)
