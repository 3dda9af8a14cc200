"""``bench`` believes no wrong answer, asks for memory before it takes it, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from mindspore_offload import AdamOffload, commands, machine
from mindspore_offload.commands import main
from mindspore_offload.commands.bench import loaded, memory, peers, rivals, timing
from mindspore_offload.commands.errors import CommandError

SOURCE_TREE = os.path.dirname(os.path.dirname(os.path.dirname(commands.__file__)))


@pytest.fixture
def threads_are_restored(fresh_library):
    fresh_library.setenv("MINDSPORE_OFFLOAD_THREADS", "2")


def test_the_report_of_a_small_run(threads_are_restored, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "steps.png"
    options = ["--params", "3001", "--tensors", "3", "--steps", "3", "--threads", "1"]
    assert main(["bench", *options, "--json", "--plot", str(picture)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 1
    (table,) = report["steps"]
    assert (table["params"], table["tensors"], table["steps"]) == (3000, 3, 3)
    rows = {row["name"]: row for row in table["rivals"]}
    assert rows.keys() >= {rivals.BARE_LOOP, *rivals.ALL}
    ours = rows["AdamOffload"]
    for name, row in rows.items():
        assert 0 < row["ms_min"] <= row["ms"] <= row["ms_max"]
        assert row["ns_a_parameter"] == pytest.approx(row["ms"] * 1e6 / 3000)
        assert row["relative"] == pytest.approx(row["ms"] / ours["ms"])
        assert row["first_step_s"] > 0
        assert row["gb_s"] * row["ns_a_parameter"] == pytest.approx(30 if "float16" in name else 28)
    assert picture.read_bytes().startswith(b"\x89PNG")


class Idle:
    """An optimizer that does nothing."""

    def __init__(self, dtype, has_master):
        self.dtype, self.has_master = dtype, has_master

    def start(self, data):
        return lambda: None, lambda: timing._rounded(data.weights[-1], self.dtype)

    def expected(self):
        return {}


WRONG = {
    "idle": Idle("float32", True),
    "idle float16": Idle("float16", True),
    "idle bfloat16, no master": Idle("bfloat16", False),
    "no bias correction": rivals.Rival(AdamOffload, {}, answer={"bias_correction": False}),
    "eps elsewhere": rivals.Rival(AdamOffload, {}, answer={"eps_on_corrected_root": True}),
    "nesterov": rivals.Rival(AdamOffload, {"use_nesterov": True}, "bfloat16"),
    "decay": rivals.Rival(lambda parameters, **_: AdamOffload(parameters), {"weight_decay": 1e-4}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_not_timed(name):
    with pytest.raises(CommandError, match=f"{name} is wrong after two steps, by .* times what may be"):
        timing.time_steps(100_000, 1, 1, {name: WRONG[name]})


def test_peers_are_checked_and_timed():
    pytest.importorskip("torch")
    others, _ = peers.installed(threads=1)
    timed = timing.time_steps(100_000, 2, 2, others)
    assert [len(rival.seconds) for rival in timed.values()] == [2] * len(others)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(peers, "_is_there", lambda name: False)
    others, missing = peers.installed(threads=1)
    assert others == {}
    assert [text.partition(":")[0] for text in missing] == ["torch is not installed", "deepspeed is not installed"]
    assert all("pip install '.[peers]'" in text for text in missing)


MINDSPORE_ITSELF = 300_000_000  # bytes that it loads and allocates when it first runs something


def test_what_rivals_hold_is_what_they_are_said_to_hold():
    """Measured by what a process gains when a few of them have run, which is not far from the bound."""
    chosen = {name: rivals.ALL[name] for name in ("AdamOffload", "AdamOffload, float16", "nn.Adam")}
    size = 16_000_000
    process = psutil.Process()
    before, most = process.memory_info().rss, 0
    done = threading.Event()

    def watch():
        nonlocal most
        while not done.wait(0.02):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    timing.time_steps(size, 1, 1, chosen)
    done.set()
    watcher.join()
    bound = timing.needed_memory(size, chosen.values())
    assert 0.5 * bound < most - before < bound + MINDSPORE_ITSELF


def test_memory_and_start_of_a_training():
    peak, first, step = memory.measure(["AdamOffload"], layers=1, rounds=1)["AdamOffload"]
    assert 12 * memory.params_of(1) / 1e6 < peak < 2000
    assert first > step > 0


def test_one_core_loaded():
    assert loaded.measure(rivals.ALL["AdamOffload"], 1000, 1, steps=2).keys() == {"idle", "loaded"}
    assert psutil.Process().children() == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
def test_nothing_is_left_behind(ending, tmp_path):
    """It is ended while a process of its own measures the memory of a training."""
    command = [sys.executable, "-m", "mindspore_offload", "bench", "--params", "1000", "--layers", "2"]
    environment = {**os.environ, "PYTHONPATH": SOURCE_TREE}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    parent = psutil.Process(run.pid)
    deadline = time.monotonic() + 30
    training = []
    while not training and time.monotonic() < deadline:
        time.sleep(0.05)
        training = [child for child in parent.children(recursive=True) if "import train" in " ".join(child.cmdline())]
    assert training
    time.sleep(0.5)  # until it has looked for its parent
    run.send_signal(ending)
    assert run.wait(10) == (130 if ending != signal.SIGKILL else -ending)
    _, alive = psutil.wait_procs(training, timeout=1)  # a training takes longer
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in run.stderr.read()


def test_an_interrupted_compilation_leaves_no_file(tmp_path):
    environment = {**os.environ, "PYTHONPATH": SOURCE_TREE}
    command = [sys.executable, "-m", "mindspore_offload", "doctor"]
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    next(line for line in run.stdout if "training step" in line)
    run.send_signal(signal.SIGINT)
    assert run.wait(10) == 130
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_for_the_steps(monkeypatch, capsys):
    monkeypatch.setattr(machine, "available_memory", lambda: 2_000_000_000)
    assert main(["bench", "--params", "64e6"]) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if not line.startswith("...")]
    assert "64,000,000 parameters need" in line
    most = int(line.split("at most ")[1].removesuffix("e6")) * 1_000_000
    contenders = [rivals.BareLoop(), *rivals.ALL.values(), *peers.installed(1)[0].values()]
    timing.check_memory(most, contenders)
    with pytest.raises(CommandError):
        timing.check_memory(most + 2_000_000, contenders)


def test_too_little_memory_for_the_trainings(monkeypatch, capsys):
    monkeypatch.setattr(machine, "available_memory", lambda: 2_000_000_000)
    assert main(["bench", "--params", "1000", "--layers", "50"]) == 2
    assert "50 layers need about 18.5 GB, but only 2.0 GB are available" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--params", "0"], "must be a whole number of at least 1, but got '0'"),
        (["--params", "5", "--tensors", "6"], "--tensors must be at most the number of parameters, 5, but got 6"),
        (["--layers", "-1"], "--layers must be at least 0, but got -1"),
        (["--plot", "/nowhere/at/all.png"], "can't write /nowhere/at/all.png"),
        (["--plot", "steps.txt"], "--plot must be a file that ends in .png, but got steps.txt"),
        (["--threads", "5000"], "must be a whole number from 1 to 1024, but it is '5000'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(options, message, threads_are_restored, capsys):
    try:
        status = main(["bench", *options])
    except SystemExit as error:  # as argparse ends
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_the_data_is_the_same_in_every_run():
    first, second = (timing.Data(5, 2) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.gradients, second.gradients)
    assert not np.array_equal(first.weights[0], first.weights[1])
