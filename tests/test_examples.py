# SPDX-License-Identifier: Apache-2.0

"""The examples do what they claim, in a shorter run. Each runs as a program, as a reader would run it."""

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import msrun
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
PNG = b"\x89PNG"


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


def test_digits(tmp_path):
    printed = output(start("digits", "--epochs=1", f"--output={tmp_path}"))
    assert "The losses of both AdamOffload agree" in printed
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG)


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


def test_quick_start():
    printed = output(start("quick_start"))
    assert float(re.search(r"test accuracy (\d+\.\d)%", printed)[1]) > 85


def test_gan(tmp_path):
    printed = output(start("gan", "--steps=40", f"--output={tmp_path}"))
    losses = re.findall(r"step +40   loss: (generator .+, discriminator .+)", printed)
    assert len(losses) == 2
    assert losses[0] == losses[1]
    assert "Again from step 20," in printed
    assert "Both trainings ended with the same bits" in printed
    assert (tmp_path / "gan.png").read_bytes().startswith(PNG)


def test_data_parallel(tmp_path):
    msrun.run(EXAMPLES / "data_parallel.py", tmp_path, 2, "--steps=8", f"--output={tmp_path}")
    for rank in range(2):
        printed = (tmp_path / "log" / f"worker_{rank}.log").read_text()
        threads, cores = re.search(rf"worker {rank} of 2: AdamOffload has (\d+) of (\d+) cores", printed).groups()
        assert int(threads) == max(1, int(cores) // 2)
        assert "weights and states are the same bits on all workers" in printed
    assert "One process with the joint batches has the same losses" in (tmp_path / "log" / "worker_0.log").read_text()


def test_data_parallel_without_msrun_says_how(tmp_path):
    process = start("data_parallel", f"--output={tmp_path}")
    assert "msrun has to start it: msrun --worker_num=2" in process.communicate()[1]
    assert process.returncode == 1


def test_interrupted(tmp_path):
    printed = output(start("interrupted", "--steps=40", f"--output={tmp_path}"))
    killed = int(re.search(r"killed after step (\d+)", printed)[1])
    resumed = int(re.search(r"went on at step (\d+)", printed)[1])
    assert 1 < resumed <= killed + 1 <= 40
    assert "Both ended with the same bits in all weights and states" in printed
    assert (tmp_path / "interrupted.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("optimizer", ["adam_offload", "adam"])
def test_migration_is_one_line_and_training_continues(optimizer, tmp_path):
    """After the first epoch, the old and the new program continue from copies of the same checkpoint."""
    before, after = (f"migration_{optimizer}_{name}" for name in ("before", "after"))
    sources = [(EXAMPLES / f"{name}.py").read_text().splitlines() for name in (before, after)]
    changed = [line for line in difflib.ndiff(*sources) if line[0] in "+-"]
    assert [line[0] for line in changed] == ["-", "+"]

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


def test_a_device_that_mindspore_was_not_built_for(tmp_path):
    process = start("interrupted", "--device-target=Ascend", f"--output={tmp_path}")
    last = process.communicate()[1].splitlines()[-1]
    assert re.match(r"interrupted.py: error: this MindSpore can't use --device-target Ascend \(.+\); install", last)
    assert process.returncode == 1
