# SPDX-License-Identifier: Apache-2.0

"""The benchmark believes no wrong answer, asks for memory before it takes it, and leaves nothing behind."""

import json
import math
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
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end, so that the package is the one that is tested

from benchmarks import loaded, memory, nets, peers, pictures, rivals, steps, timing, training  # noqa: E402
from benchmarks.__main__ import cpu, main  # noqa: E402
from benchmarks.resnet import ResNet  # noqa: E402
from benchmarks.words import words  # noqa: E402
from mindspore_offload import AdamOffload, machine  # noqa: E402
from mindspore_offload.commands.common import CommandError  # noqa: E402


@pytest.fixture
def threads_are_restored(fresh_library):
    fresh_library.setenv("MINDSPORE_OFFLOAD_THREADS", "2")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The report of a tiny run of three parts, in a process of its own, and the folder of its figures."""
    folder = tmp_path_factory.mktemp("figures")
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "large",
        "single",
        "loaded",
        "--tiny",
        "--steps",
        "3",
        "--threads",
        "2",
    ]
    run = subprocess.run([*command, "--json", "--figures", folder], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(run.stdout), folder


def test_the_report_of_a_tiny_run(tiny_run):
    report, _ = tiny_run
    assert report["threads"] == 2
    table = report["parts"]["large"]
    assert (table["params"], table["tensors"], table["steps"], table["threads"]) == (3000, 3, 3, 2)
    rows = {row["name"]: row for row in table["rivals"]}
    assert rows.keys() >= {steps.BARE_LOOP, *rivals.ALL}
    for name, row in rows.items():
        assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["ns_a_parameter"] == pytest.approx(row["ms"] * 1e6 / 3000)
        assert row["relative"] == pytest.approx(row["ms"] / rows["AdamOffload"]["ms"])
        assert row["first_step_s"] > 0
        # The names say what the parameters are, and behind that what the moments are.
        weights = name.replace("bfloat16 moments", "")
        moved = 22 if "no master" in name else 30 if "float16" in weights else 28
        moved -= 8 if "bfloat16 moments" in name else 0
        assert row["gb_s"] * row["ns_a_parameter"] == pytest.approx(moved)
    assert report["parts"]["single"]["threads"] == 1
    both = {"AdamOffload, bfloat16 moments", "AdamOffload, bfloat16, bfloat16 moments"}
    assert both <= {row["name"] for row in report["parts"]["single"]["rivals"]}
    assert report["parts"]["loaded"].keys() >= {"idle", "loaded"}


def test_figures_are_named_after_the_cpu_and_show_every_bar(tiny_run):
    report, folder = tiny_run
    (tables,) = folder.glob("*.txt")
    names = {path.name for path in folder.iterdir()}
    assert names == {f"{tables.stem}{ending}" for ending in (".txt", ".svg", "-all.svg", ".zh.svg", "-all.zh.svg")}
    assert re.findall(r"\w+", report["CPU"].lower()) == tables.stem.split("-")
    text = tables.read_text()
    drawn = texts(folder / f"{tables.stem}-all.svg")
    for row in report["parts"]["large"]["rivals"]:
        assert row["name"] in text
        assert row["name"] in drawn
    assert {"AdamOffload", "nn.Adam", "nn.AdamOffload", "bare loop"} <= texts(folder / f"{tables.stem}.svg")
    assert {"纯C++循环", "AdamOffload, 裁剪"} <= texts(folder / f"{tables.stem}-all.zh.svg")


def texts(picture):
    return {element.text for element in ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")}


def test_every_name_has_chinese_words():
    say = words("zh")
    others = ["torch Adam, fused", "DeepSpeedCPUAdam", "DeepSpeedCPUAdam, bfloat16, no master", steps.BARE_LOOP]
    for name in [*rivals.ALL, *rivals.FROM_PYTHON, *training.RIVALS, *training.CLIPPED, *others]:
        for word in name.split(", "):
            assert say(word)
            assert words("en")(word) == word


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("colors", [pictures.LIGHT, pictures.DARK], ids=["light", "dark"])
def test_the_colours_have_contrast(colors):
    """As the Web Content Accessibility Guidelines demand: 4.5 for text, 3 for graphics."""
    for name, least in (("ink", 4.5), ("ours", 3), ("mindspore", 3), ("others", 3)):
        dark, light = sorted(luminance(colors[each]) for each in (name, "page"))
        assert (light + 0.05) / (dark + 0.05) >= least, name


def test_a_long_bar_is_cut():
    bars = [pictures.Bar("ours", 0.9, 1, 1.1, "1 ns", "ours"), pictures.Bar("slow", 99, 100, 101, "100 ns", "others")]
    drawn = ElementTree.fromstring(pictures.picture([pictures.Panel("t", bars)], "t", [], {}, "en"))
    rectangles = [e for e in drawn.iter("{http://www.w3.org/2000/svg}rect") if e.get("class") in ("ours", "others")]
    ours, slow = (float(rectangle.get("width")) for rectangle in rectangles)
    assert slow == pytest.approx(pictures.LONGEST * ours, abs=0.2)
    assert slow < pictures.WIDTH - pictures.VALUES
    assert "100 ns" in {element.text for element in drawn}


class Idle:
    """An optimizer that does nothing."""

    def __init__(self, dtype, has_master, moment_dtype="float32"):
        self.dtype, self.has_master, self.moment_dtype = dtype, has_master, moment_dtype

    def start(self, data):
        return lambda: None, lambda: timing._rounded(data.weights[-1], self.dtype)

    def expected(self):
        return {}


WRONG = {
    "idle": Idle("float32", True),
    "idle float16": Idle("float16", True),
    "idle bfloat16, no master": Idle("bfloat16", False),
    "idle bfloat16 moments": Idle("float32", True, "bfloat16"),
    "no bias correction": rivals.Rival(AdamOffload, answer={"bias_correction": False}),
    "eps elsewhere": rivals.Rival(AdamOffload, answer={"eps_on_corrected_root": True}),
    "nesterov": rivals.Rival(AdamOffload, {"use_nesterov": True}, "bfloat16"),
    "nesterov, bfloat16 moments": rivals.Rival(AdamOffload, {**rivals.BFLOAT16_MOMENTS, "use_nesterov": True}),
    "no bias correction, bfloat16 moments": rivals.Rival(
        AdamOffload, rivals.BFLOAT16_MOMENTS, answer={"bias_correction": False}
    ),
    "moments rounded unasked": rivals.Rival(lambda parameters: AdamOffload(parameters, moment_dtype=ms.bfloat16)),
    "decay": rivals.Rival(lambda parameters, **_: AdamOffload(parameters), {"weight_decay": 1e-4}),
    "decay, called from Python": rivals.Rival(
        lambda parameters, **_: AdamOffload(parameters), {"weight_decay": 1e-4}, in_graph=False
    ),
}


@pytest.mark.parametrize("name", WRONG)
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


def test_bert_has_the_parameters_of_bert_base():
    """The encoder of Devlin and others, without its two segments and its pooler, and an output layer of its own."""
    words, hidden, wide, positions = 30522, 768, 3072, 512
    norm = 2 * hidden
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * wide + wide + hidden + 2 * norm
    head = hidden * hidden + hidden + norm + hidden * words + words
    expected = words * hidden + positions * hidden + norm + 12 * layer + head
    assert sum(map(math.prod, nets.bert_shapes())) == expected


def test_resnet_has_the_parameters_of_resnet_50():
    """25,557,032, as all frameworks' ResNet-50 with 1000 classes."""
    with no_init_parameters():
        net = ResNet(**nets.RESNET_50)
    assert sum(parameter.size for parameter in net.trainable_params()) == 25_557_032


@pytest.mark.parametrize("net", training.NETS)
def test_a_tiny_net_trains(net):
    trained = training.train(net, "AdamOffload", 2, tiny=True)
    assert len(trained["seconds"]) == 2
    assert min(trained["seconds"]) > 0
    assert trained["compile_s"] > trained["first_step_s"] > 0  # the first step compiles nothing
    assert trained["peak_mb"] > 100


def test_the_table_of_a_training(monkeypatch):
    monkeypatch.setitem(training.NETS, "dense", ("dense", (training.ALONE, "AdamOffload"), 0))
    table = training.measure("dense", {"steps": 5, "rounds": 2, "tiny": True})
    assert (table["params"], table["tensors"], table["steps"], table["rounds"]) == (2 * (64 * 64 + 64), 4, 6, 2)
    alone, ours = table["rivals"]
    assert (alone["name"], ours["name"]) == (training.ALONE, "AdamOffload")
    assert alone["optimizer_share"] == 0
    assert ours["optimizer_share"] == pytest.approx(1 - alone["ms"] / ours["ms"])
    assert alone["relative"] == pytest.approx(alone["ms"] / ours["ms"])
    assert ours["relative"] == 1


def test_forward_and_backward_alone_computes_all_gradients(tmp_path):
    """Two layers need two products forward and three backward, and a gradient of each bias."""
    network, inputs = nets.build("dense", tiny=True)
    alone = nn.TrainOneStepCell(network, rivals.NoOptimizer(network.trainable_params()))
    ms.set_context(save_graphs=1, save_graphs_path=str(tmp_path))
    try:
        alone.compile(*inputs)
    finally:
        ms.set_context(save_graphs=0)
    *_, last = sorted(tmp_path.rglob("graph_build_*.ir"))
    graph = last.read_text()
    assert [len(re.findall(rf"= (?:PrimFunc_)?{name}\(", graph)) for name in ("MatMul", "BiasAddGrad")] == [5, 2]


def test_one_core_loaded():
    table = loaded.time_loaded(rivals.ALL["AdamOffload"], [(1000,)], steps=2)
    assert table.keys() == {"idle", "loaded"}
    assert psutil.Process().children() == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
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
        (["--params", "0"], "must be a whole number of at least 1, but got '0'"),
        (["--steps", "1"], "must be a whole number of at least 2, but got '1'"),
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


def test_the_name_of_the_cpu_has_its_model():
    assert cpu().startswith(machine.cpu_name())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_show_every_machine(language):
    page = (ROOT / f"docs_{language}" / "performance.rst").read_text(encoding="utf-8")
    measured = sorted(path.name for path in (ROOT / "docs" / "bench").glob("*.txt"))
    assert measured
    assert [name for name in measured if name not in page] == []


@pytest.mark.parametrize(("language", "ending"), [("en", ".svg"), ("zh", ".zh.svg")])
def test_the_picture_of_memory_is_up_to_date(language, ending):
    """2 bytes each for weights and gradients; for the states 8 of moments and 4 of masters, or 4 and 4, or only 4."""
    path = ROOT / "docs" / f"memory{ending}"
    assert path.read_text(encoding="utf-8") == memory.picture(language)
    assert {"56 GB", "112 GB", "28 + 84 GB", "28 + 56 GB"} <= texts(path)
