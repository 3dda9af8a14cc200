# SPDX-License-Identifier: Apache-2.0

"""The benchmark believes no wrong answer, asks for memory before it takes it, and leaves nothing behind."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import mindspore as ms
import numpy as np
import psutil
import pytest
from oracle import EpsOnCorrectedRoot, NoBiasCorrection, Oracle

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end, so that the package is the one that is tested

from benchmarks import memory, peers, rivals, steps, timing, training  # noqa: E402
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.words import words  # noqa: E402
from mindspore_offload import AdamOffload, machine  # noqa: E402
from mindspore_offload.errors import CommandError  # noqa: E402

pytestmark = pytest.mark.newest("the benchmark is not part of the package")


@pytest.fixture
def threads_are_restored(fresh_library):
    fresh_library.setenv("MINDSPORE_OFFLOAD_THREADS", "2")


@pytest.fixture
def in_this_process(monkeypatch):
    """Lets `benchmarks` measure in this process, which has imported MindSpore already."""

    def call(function, *arguments, environment=None):
        module, _, name = function.partition(":")
        arguments = json.loads(json.dumps(arguments))
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(*arguments)))

    monkeypatch.setattr("benchmarks.__main__.call", call)


@pytest.mark.usefixtures("in_this_process", "threads_are_restored")
def test_two_parts_are_measured(capsys):
    assert main(["single", "loaded", "--tiny", "--steps=2", "--threads=1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 1
    single, loaded = (report["parts"][part] for part in ("single", "loaded"))
    assert (single["params"], single["tensors"], single["steps"], single["threads"]) == (15000, 3, 2, 1)
    rows = {row["name"]: row for row in single["rivals"]}
    assert rows.keys() >= {steps.BARE_LOOP, "AdamOffload", *steps.ROUNDED_MOMENTS}
    for name, row in rows.items():
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["ns_a_parameter"] == pytest.approx(row["ms"] * 1e6 / 15000)
        assert row["relative"] == pytest.approx(row["ms"] / rows["AdamOffload"]["ms"])
        assert row["gb_s"] * row["ns_a_parameter"] == pytest.approx(moved_bytes(name))
    for state in ("idle", "loaded"):
        low, median, high = loaded[state]
        assert 0 < low <= median <= high
    assert psutil.Process().children() == []  # the process that kept a core busy


def moved_bytes(name):
    """Returns the bytes of a parameter that a rival reads and writes.

    The names say what the parameters are, and behind that what the moments are.
    """
    weights, moments = re.fullmatch(r"(.*?)(?:, (\w+) moments)?", name).groups()
    moved = 22 if "no master" in weights else 30 if "float16" in weights else 28
    # Each moment is read and written. 256 codes share a scale of 4 bytes.
    return moved - 16 + 4 * {None: 4, "bfloat16": 2, "uint8": 1 + 4 / 256}[moments]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The report of a tiny run of three parts, in a process of its own, and the folder of its figures."""
    folder = tmp_path_factory.mktemp("figures")
    options = ["large", "single", "loaded", "--tiny", "--steps=3", "--threads=2", "--json", f"--figures={folder}"]
    run = subprocess.run([sys.executable, "-m", "benchmarks", *options], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout), folder


@pytest.mark.full
def test_the_report_of_a_tiny_run(tiny_run):
    report, _ = tiny_run
    assert report["threads"] == 2
    assert report["parts"]["single"]["threads"] == 1
    rows = {row["name"]: row for row in report["parts"]["large"]["rivals"]}
    assert rows.keys() >= {steps.BARE_LOOP, *rivals.ALL}
    for name, row in rows.items():
        assert row["first_step_s"] > 0
        assert row["gb_s"] * row["ns_a_parameter"] == pytest.approx(moved_bytes(name))
    assert report["parts"]["loaded"].keys() >= {"idle", "loaded"}


@pytest.mark.full
def test_figures_are_named_after_the_cpu(tiny_run):
    report, folder = tiny_run
    (tables,) = folder.glob("*.txt")
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{tables.stem}{ending}" for ending in (".txt", ".svg", "-all.svg", ".zh.svg", "-all.zh.svg")}
    assert re.findall(r"\w+", report["CPU"].lower()) == tables.stem.split("-")
    drawn = texts(folder / f"{tables.stem}-all.svg")
    for row in report["parts"]["large"]["rivals"]:
        assert row["name"] in tables.read_text()
        assert row["name"] in drawn


def texts(picture):
    return {element.text for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}


def test_every_name_has_chinese_words():
    """One without them would end a benchmark of half an hour when its pictures are drawn."""
    say = words("zh")
    others = ["torch Adam, fused", "DeepSpeedCPUAdam", "DeepSpeedCPUAdam, bfloat16, no master", steps.BARE_LOOP]
    for name in [*rivals.ALL, *rivals.FROM_PYTHON, *training.RIVALS, *training.CLIPPED, *others]:
        for word in name.split(", "):
            assert say(word)
            assert words("en")(word) == word


class Idle:
    """An optimizer that does nothing."""

    def __init__(self, dtype, has_master, moment_dtype="float32"):
        self.dtype, self.has_master, self.moment_dtype = dtype, has_master, moment_dtype

    def start(self, data):
        return lambda: None, lambda: timing._rounded(data.weights[-1], self.dtype)

    def oracle(self, weight):
        return Oracle([weight])


WRONG = {
    "idle": Idle("float32", True),
    "idle float16": Idle("float16", True),
    "idle bfloat16, no master": Idle("bfloat16", False),
    "idle bfloat16 moments": Idle("float32", True, "bfloat16"),
    "idle uint8 moments": Idle("float32", True, "uint8"),
    "no bias correction": rivals.Rival(AdamOffload, answer=NoBiasCorrection),
    "eps elsewhere": rivals.Rival(AdamOffload, answer=EpsOnCorrectedRoot),
    "nesterov": rivals.Rival(AdamOffload, {"use_nesterov": True}, "bfloat16"),
    "nesterov, bfloat16 moments": rivals.Rival(AdamOffload, {**rivals.BFLOAT16_MOMENTS, "use_nesterov": True}),
    "no bias correction, bfloat16 moments": rivals.Rival(AdamOffload, rivals.BFLOAT16_MOMENTS, answer=NoBiasCorrection),
    "nesterov, uint8 moments": rivals.Rival(AdamOffload, {**rivals.UINT8_MOMENTS, "use_nesterov": True}),
    "moments rounded unasked": rivals.Rival(lambda parameters: AdamOffload(parameters, moment_dtype=ms.bfloat16)),
    "decay": rivals.Rival(lambda parameters, **_: AdamOffload(parameters), {"weight_decay": 1e-4}),
    "decay, called from Python": rivals.Rival(
        lambda parameters, **_: AdamOffload(parameters), {"weight_decay": 1e-4}, in_graph=False
    ),
}


# One of each way to be wrong; the others compile a graph each and differ in their expected answer alone.
IDLE = [name for name in WRONG if name.startswith("idle")]
IN_EVERY_RUN = (*IDLE, "nesterov", "decay")


@pytest.mark.parametrize(
    "name", [name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.full) for name in WRONG]
)
def test_a_wrong_answer_is_not_timed(name):
    with pytest.raises(CommandError, match=f"{name} is wrong after two steps, by .* times the allowed error"):
        timing.time_steps([(100, 1000)], 1, {name: WRONG[name]})


def test_both_ways_of_calling_are_right_and_timed():
    chosen = {"in a graph": rivals.ALL["nn.Adam"], "from Python": rivals.FROM_PYTHON["nn.Adam, called from Python"]}
    timed = timing.time_steps([(10, 100), (7,)], 2, chosen)
    assert [len(rival.seconds) for rival in timed.values()] == [2, 2]


def test_peers_are_checked_and_timed():
    pytest.importorskip("torch")
    others, _ = peers.installed(threads=1)
    timed = timing.time_steps([(100_000,)] * 2, 2, others)
    assert [len(rival.seconds) for rival in timed.values()] == [2] * len(others)


def test_a_missing_peer_is_reported(monkeypatch):
    monkeypatch.setattr(peers, "_is_installed", lambda name: False)
    others, missing = peers.installed(threads=1)
    assert others == {}
    assert [text.partition(":")[0] for text in missing] == ["torch is not installed", "deepspeed is not installed"]
    assert all("pip install '.[peers]'" in text for text in missing)


MINDSPORE_ITSELF = 300_000_000  # bytes that it loads and allocates when it first runs something


@pytest.mark.full
def test_the_rivals_hold_the_memory_that_is_asked_for():
    """Compares the bound with the growth of the process while a few rivals run."""
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
    timing.time_steps([(size,)], 1, chosen)
    done.set()
    watcher.join()
    bound = timing.needed_bytes(size, chosen.values())
    assert 0.5 * bound < most - before < bound + MINDSPORE_ITSELF


@pytest.mark.parametrize(
    "ending",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.full),
        pytest.param(signal.SIGKILL, marks=pytest.mark.full),
    ],
    ids=lambda ending: ending.name,
)
def test_nothing_is_left_behind(ending, tmp_path):
    """It is ended while another process of its own trains."""
    command = [sys.executable, "-m", "benchmarks", "dense", "--tiny"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    parent = psutil.Process(run.pid)
    deadline = time.monotonic() + 60
    trains = []
    while not trains and time.monotonic() < deadline:
        time.sleep(0.05)
        trains = [child for child in parent.children(recursive=True) if "benchmarks.training:train" in child.cmdline()]
    assert trains
    time.sleep(0.5)  # until it has looked for its parent
    run.send_signal(ending)
    assert run.wait(10) == (130 if ending != signal.SIGKILL else -ending)
    _, alive = psutil.wait_procs(trains, timeout=1)  # a training takes longer
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert "Traceback" not in run.stderr.read()
    if ending != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_this_process")
def test_too_little_memory_for_the_steps(monkeypatch, capsys):
    contenders = [steps.BareLoop(1), *rivals.ALL.values(), *peers.installed(1)[0].values()]
    needed = timing.needed_bytes(2**26, contenders)
    monkeypatch.setattr(machine, "available_memory", lambda: needed)
    assert main(["large"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("...")]
    assert f"the part 'large' needs {needed / 1e9:.1f} GB, but only {needed / 1e9:.1f} GB are available" in line


def test_too_little_memory_for_the_trainings(monkeypatch, capsys):
    monkeypatch.setattr(machine, "available_memory", lambda: 2_000_000_000)
    assert main(["dense"]) == 2
    assert "the part 'dense' needs 12.0 GB, but only 2.0 GB are available" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--params", "0"], "must be a whole number from 1 to 1e+18, like 8, 7e9 or 7B, but got '0'"),
        (["--steps", "1"], "must be a whole number from 2 to 1e+18, like 8, 7e9 or 7B, but got '1'"),
        (["huge"], "a part must be one of large, mid, small, single, loaded, dense, bert, resnet, but got 'huge'"),
        (["large", "--figures", "/nowhere/at/all"], "can't write into /nowhere/at/all; give a folder that exists"),
        (["mid", "--figures", "."], "--figures needs the part 'large'"),
        (["--threads", "5000"], "must be a whole number from 1 to 1024, but it is '5000'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_errors(options, message, threads_are_restored, capsys):
    try:
        status = main(options)
    except SystemExit as error:  # as argparse ends
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err


def test_the_data_is_the_same_in_every_run():
    first, second = (timing.Data([(5,), (2, 3)]) for _ in range(2))
    for name in ("weights", "gradients"):
        for one, other in zip(getattr(first, name), getattr(second, name)):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.weights[0], first.gradients[0])


@pytest.mark.parametrize(("language", "ending"), [("en", ".svg"), ("zh", ".zh.svg")])
def test_the_picture_of_memory_is_up_to_date(language, ending):
    """2 bytes each for weights and gradients; for the states 8 of moments and 4 of masters, or 4 and 4, or only 4."""
    path = ROOT / "docs" / f"memory{ending}"
    assert path.read_text(encoding="utf-8") == memory.picture(language)
    assert {"56 GB", "112 GB", "28 + 84 GB", "28 + 56 GB"} <= texts(path)
