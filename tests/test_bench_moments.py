# SPDX-License-Identifier: Apache-2.0

"""``python -m benchmarks.moments`` trains nets that differ in the moments alone, and continues after an interrupt."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end, so that the package is the one that is tested

from benchmarks import moments  # noqa: E402

TINY = {task: tiny for task, (_, _, tiny) in moments.TASKS.items()}

pytestmark = pytest.mark.newest("the benchmark is not part of the package")


@pytest.fixture(autouse=True)
def path_is_restored(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.full
@pytest.mark.parametrize("task", TINY)
def test_a_seed_has_the_same_training_but_for_the_moments(task):
    """Another seed changes the loss by more than other moments do."""
    train = getattr(moments, task)
    (exact, _), *others = (train(dtype, 1, TINY[task]) for dtype in moments.DTYPES)
    (other_seed, _) = train("float32", 2, TINY[task])
    for rounded, _ in others:
        assert 0 < abs(rounded - exact) < 0.3 * abs(other_seed - exact)


LOSSES = {"float32": (2.0, 3.0), "bfloat16": (2.1, 3.3), "uint8": (1.8, 3.4)}  # of the seeds 1 and 2
SHARES = {"float32": 1.0, "bfloat16": 1.0, "uint8": 0.75}


def run(monkeypatch, results, interrupt_at=None):
    """Runs the command with these losses. Returns its status, and what it has trained."""
    trained = []

    def call(function, dtype, seed, settings):
        if len(trained) == interrupt_at:
            raise KeyboardInterrupt
        trained.append((function.partition(":")[2], dtype, seed))
        return LOSSES[dtype][seed - 1], SHARES[dtype]

    monkeypatch.setattr(moments, "call", call)
    return moments.main(["--seeds=2", "--tiny", f"--results={results}"]), trained


def test_the_table_has_the_mean_and_its_error(monkeypatch, tmp_path, capsys):
    status, trained = run(monkeypatch, tmp_path / "results.jsonl")
    assert (status, len(trained)) == (0, 12)
    printed = capsys.readouterr().out
    assert printed.count("test loss, nats an image") == 1
    assert re.findall(r"^ +[12] .*$", printed, re.MULTILINE) == 2 * [
        "   1     2.00000     2.10000    +0.10000     1.80000    -0.20000",
        "   2     3.00000     3.30000    +0.30000     3.40000    +0.40000",
    ]
    # Two differences deviate from their mean by half of what is between them, which is also the standard error.
    for line in (
        "bfloat16 moments of 100.0 % of the elements: mean difference +0.20000, standard error 0.10000\n",
        "uint8 moments of 75.0 % of the elements: mean difference +0.10000, standard error 0.30000\n",
    ):
        assert printed.count(line) == 2
    assert printed.count("standard deviation of float32's losses from seed to seed 0.70711\n") == 2


def test_an_interrupted_comparison_continues(monkeypatch, tmp_path):
    results = tmp_path / "folder" / "results.jsonl"
    status, first = run(monkeypatch, results, interrupt_at=5)
    assert (status, len(first)) == (130, 5)
    status, second = run(monkeypatch, results)
    assert status == 0
    assert len(first + second) == len(set(first + second)) == 12
    assert run(monkeypatch, results) == (0, [])


def test_results_of_other_settings_do_not_count(monkeypatch, tmp_path):
    results = tmp_path / "results.jsonl"
    run(monkeypatch, results)
    monkeypatch.setitem(moments.TASKS, "digits", ("test loss", {"epochs": 12}, {"epochs": 2}))
    _, trained = run(monkeypatch, results)
    assert {task for task, _, _ in trained} == {"digits"}
    assert len(trained) == 6


def test_a_single_seed_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        moments.main(["--seeds=1"])
    assert "must be a whole number from 2 to 1e+18, like 8, 7e9 or 7B, but got '1'" in capsys.readouterr().err


def test_the_published_means_are_those_of_the_published_losses():
    """docs/moments.txt is the output of the command, which the documentation shows."""
    tables = (ROOT / "docs" / "moments.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert [table.split(" ")[0] for table in tables] == [*moments.TASKS]
    for table, (task, (measured, usual, _)) in zip(tables, moments.TASKS.items()):
        rows = re.findall(r"^ +(\d+) +(\S+) +(\S+) +\S+ +(\S+) +\S+$", table, re.MULTILINE)
        losses = {int(seed): [float(loss) for loss in of_seed] for seed, *of_seed in rows}
        shares = [1.0, *(float(share) / 100 for share in re.findall(r"moments of (\S+) %", table))]
        again = moments._table(task, measured, usual, losses, shares).strip()
        # The losses are printed with five digits, so what is computed from them may differ in the last one.
        for printed, computed in zip(numbers(table), numbers(again)):
            assert printed == pytest.approx(computed, abs=2e-5)
        assert without_numbers(table) == without_numbers(again)
        assert len(losses) == 10
        assert min(shares) > 0.95  # else the comparison would show little


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text)]


def without_numbers(text):
    return re.sub(r"[+-]?\d+\.\d+", "", text)
