# SPDX-License-Identifier: Apache-2.0

"""``doctor`` finds no fault on a healthy machine, and names cause and cure of each fault that is made here."""

import functools
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oracle import NoBiasCorrection
from packaging.requirements import Requirement

from mindspore_offload import AdamOffload, __version__, machine, native_library
from mindspore_offload.commands import doctor, main
from mindspore_offload.diagnosis import examination
from mindspore_offload.diagnosis import steps as tried_steps
from mindspore_offload.diagnosis.finding import Finding
from mindspore_offload.errors import one_line
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import memory_speed


@pytest.fixture(scope="module")
def healthy():
    """The findings on this machine. Their training steps take most of the time of these tests, so all share them."""
    return list(examination.findings())


@pytest.fixture
def steps(monkeypatch):
    """Replaces the training steps by right ones that are not run. Returns the arguments of each."""
    tried = []

    def faults(**arguments):
        tried.append(tuple(arguments.values()))
        return []

    monkeypatch.setattr(tried_steps, "faults", faults)
    monkeypatch.setattr(tried_steps, "milliseconds_of_a_step", lambda ratio=1.0: 20 + 80 * ratio)
    return tried


def of_state(findings, state):
    return [finding for finding in findings if finding.state == state]


def of_steps(findings):
    return [finding.state for finding in findings if finding.subject == "training step"]


def test_a_healthy_machine(healthy):
    assert {finding.state for finding in healthy} <= {"ok", "note"}
    names = [finding.text.partition(":")[0] for finding in healthy if finding.subject == "training step"]
    tried = ["auto, auto", "native, in_place", "native, assign", "stock, in_place", "stock, assign"]
    assert names == [*tried, "bfloat16 moments", "uint8 moments"]

    described = {finding.subject: finding.text for finding in healthy}
    assert str(native_library.PATH) in described["native library"]
    assert "-ffp-contract=off" in described["native library"]
    assert native_library.load().MindsporeOffloadIsa().decode() in described["instruction set"]
    speed = re.fullmatch(
        r"(.+) ms a step of 16,777,216 float32 parameters, (.+) ns each, (.+) GB/s", described["speed"]
    )
    milliseconds, nanoseconds, gigabytes = map(float, speed.groups())
    assert nanoseconds == pytest.approx(milliseconds * 1e6 / 16_777_216, rel=0.02, abs=0.006)
    assert gigabytes == pytest.approx(28 / nanoseconds, rel=0.05)
    assert "saves no time on the CPU device" in described["offload_ratio"]


FAULT = Finding("speed of light", "failed", "is too low", "use a vacuum")


@pytest.mark.parametrize("faults", [[], [FAULT]], ids=["healthy", "faulty"])
def test_the_findings_are_printed(faults, healthy, monkeypatch, capsys):
    findings = healthy + faults
    monkeypatch.setattr(examination, "findings", lambda: iter(findings))
    assert main(["doctor", "--json"]) == len(faults)
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] == (not faults)
    assert [Finding(**finding) for finding in report["findings"]] == findings

    assert main(["doctor"]) == len(faults)
    verdict = "Not everything works: see above." if faults else "Everything that is used by default works."
    assert capsys.readouterr().out == "".join(f"{finding}\n" for finding in findings) + f"\n{verdict}\n"


def test_a_cure_has_a_line_of_its_own():
    assert str(FAULT) == f"failed   speed of light    is too low\n{'':27}cure: use a vacuum"


def test_each_host_operation_and_writeback_is_tried(steps):
    findings = list(examination.findings())
    assert of_state(findings, "failed") == []
    ways = [(host_kernel, writeback) for host_kernel in ("native", "stock") for writeback in ("in_place", "assign")]
    assert steps == [(), *ways, ("native", "bfloat16"), ("native", "uint8")]


def test_without_the_library(steps, fresh_library, tmp_path):
    fresh_library.setattr(native_library, "PATH", tmp_path / "libmindspore_offload.so")
    findings = list(examination.findings())
    (failed,) = of_state(findings, "failed")
    assert (failed.subject, "does not exist" in failed.text) == ("native library", True)
    assert "install a C++ compiler" in failed.cure
    assert of_steps(findings) == ["ok", "skipped", "skipped", "ok", "ok", "skipped", "skipped"]
    default = next(finding for finding in findings if finding.subject == "training step")
    assert default.text.endswith("weights as with nn.Adam, by MindSpore's own, slower operations")
    assert steps == [(), ("stock", "in_place"), ("stock", "assign")]


def test_with_a_wrong_white_list(steps, fresh_library):
    fresh_library.setenv("MS_CUSTOM_AOT_WHITE_LIST", "/nowhere")
    (failed,) = of_state(examination.findings(), "failed")
    assert "MS_CUSTOM_AOT_WHITE_LIST must be a folder" in failed.text
    assert f"set it to '{native_library.PATH.parent}'" in failed.cure


def test_with_the_compile_cache(monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    found = next(finding for finding in examination.findings() if finding.subject == "compile cache")
    assert (found.state, "delete the cache" in found.text) == ("note", True)


@pytest.mark.parametrize(
    ("name", "version", "text", "cure"),
    [
        ("numpy", "2.1.0", "bfloat16 tensors", "pip install 'numpy>=1.26,<2'"),
        ("mindspore", "2.11.0", "below 2.11 is supported", "pip install 'mindspore>=2.7.0,<2.11'"),
        ("mindspore", None, "is not installed", "pip install 'mindspore>=2.7.0,<2.11'"),
    ],
    ids=["numpy-2", "newer-mindspore", "no-mindspore"],
)
def test_with_another_version(name, version, text, cure, steps, monkeypatch):
    installed = importlib.metadata.version

    def pretended(asked):
        if asked == name and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if asked == name else installed(asked)

    monkeypatch.setattr(importlib.metadata, "version", pretended)
    findings = list(examination.findings())
    (failed,) = of_state(findings, "failed")
    assert text in failed.text
    assert cure in failed.cure
    assert of_steps(findings) == ["skipped"]
    assert steps == []


def test_where_mindspore_cannot_be_imported(tmp_path):
    """The package can be imported all the same, and the doctor says what MindSpore says."""
    (tmp_path / "mindspore.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    source = Path(doctor.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "mindspore_offload", "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{source}"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (1, "")
    assert "failed   MindSpore         can't be imported: ImportError: libgomp.so.1: cannot open" in run.stdout


def test_a_wrong_step_is_found(monkeypatch):
    """All but the weights' exact values are right here: an optimizer that looks ahead."""
    monkeypatch.setattr(tried_steps, "AdamOffload", functools.partial(AdamOffload, use_nesterov=True))
    wrong = tried_steps.faults()
    assert [text.partition(" by ")[0] for text in wrong] == [f"{dtype}: the weights are off" for dtype in ELEMENT_TYPES]
    for moment_dtype in ("bfloat16", "uint8"):
        assert len(tried_steps.faults(host_kernel="native", moment_dtype=moment_dtype)) == len(ELEMENT_TYPES)


def test_a_step_that_raises_is_found(monkeypatch):
    def refuse(*arguments, **settings):
        raise RuntimeError("no such operation\nand more lines")

    monkeypatch.setattr(tried_steps, "AdamOffload", refuse)
    assert tried_steps.faults() == [f"{dtype}: RuntimeError: no such operation" for dtype in ELEMENT_TYPES]


def test_wrong_steps_are_reported(steps, monkeypatch):
    wrong = ["float16: the weights are off by 7 times the allowed error", "bfloat16: RuntimeError"]
    monkeypatch.setattr(tried_steps, "faults", lambda **arguments: wrong)
    findings = list(examination.findings())
    assert of_steps(findings) == ["failed"] + 6 * ["warning"]
    assert of_state(findings, "failed")[0].text == f"auto, auto: {wrong[0]}; {wrong[1]}"
    assert [finding.subject for finding in of_state(findings, "skipped")] == ["speed"]


def test_the_parts_of_a_step_on_an_accelerator(steps, monkeypatch):
    """A step has 20 ms without offloading and 80 ms more with it, of which the kernel needs 30."""
    monkeypatch.setattr(memory_speed, "seconds_of_a_step", lambda size: 0.03 * size / tried_steps.TIMED_PARAMS)
    *_, speed, whole, half = tried_steps.check("GPU", has_library=True)
    assert speed.text == "100.0 ms a step of 16,777,216 float32 parameters, 5.96 ns each"
    assert [finding.subject for finding in (whole, half)] == ["offload_ratio"] * 2
    times = [re.findall(r"-?[0-9.]+(?= ms|,)", finding.text) for finding in (whole, half)]
    assert times == [["100.0", "30.0", "0.0", "70.0"], ["60.0", "15.0", "10.0", "35.0"]]


def test_speed_is_not_measured_without_memory(steps, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 300_000_000)
    *_, finding = tried_steps.check("CPU", has_library=True)
    assert (finding.subject, finding.state) == ("speed", "skipped")


def test_the_timed_steps_update_the_weights(monkeypatch):
    """All gradients are 1, so each of Adam's first steps is the learning rate."""
    monkeypatch.setattr(tried_steps, "TIMED_PARAMS", 4 * 7)
    made = []

    class Recorded(AdamOffload):
        def __init__(self, parameters, **settings):
            made.extend(parameters)
            super().__init__(parameters, **settings)

    monkeypatch.setattr(tried_steps, "AdamOffload", Recorded)
    assert tried_steps.milliseconds_of_a_step() > 0
    assert len(made) == 4
    for parameter in made:
        np.testing.assert_allclose(parameter.asnumpy(), 1 - 1e-3 * (2 + tried_steps.TIMED_STEPS), rtol=1e-5)


def test_the_speed_of_memory_is_measured_with_adam():
    """The kernel gets a learning rate without bias correction."""
    random = np.random.default_rng(6)
    weight, gradient = (random.standard_normal(1001).astype(np.float32) for _ in range(2))
    expected = NoBiasCorrection([weight])
    for _ in range(2):
        expected.step([gradient])
    moment1, moment2 = np.zeros_like(weight), np.zeros_like(weight)
    for _ in range(2):
        memory_speed.run_kernel(weight, moment1, moment2, gradient)
    assert tried_steps.worst_error(weight, expected.weights[0], "float32") < 1
    assert memory_speed.memory_speed(size=1000) > 0


def test_an_interrupted_compilation_leaves_no_file(tmp_path):
    """The first training step has been compiled then. The doctor does not store it in the compile cache."""
    source = str(Path(doctor.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source, "MS_COMPILER_CACHE_ENABLE": "1"}
    command = [sys.executable, "-m", "mindspore_offload", "doctor"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    next(line for line in run.stdout if "training step" in line)
    run.send_signal(signal.SIGINT)
    assert run.wait(10) == 130
    assert run.stderr.read().splitlines()[-1] == "python -m mindspore_offload doctor: interrupted"
    assert list(tmp_path.iterdir()) == []


def test_the_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"mindspore_offload {__version__}\n"


def test_the_console_script():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["mindspore-offload"].partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", program, "--version"]
    environment = {**os.environ, "PYTHONPATH": str(Path(doctor.__file__).parents[2])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"mindspore_offload {__version__}\n"


def test_the_supported_versions_are_those_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    with open(Path(__file__).parent.parent / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    wanted = {"mindspore": "MindSpore", "numpy": "numpy", "python": "Python"}
    for text in [*project["dependencies"], f"python{project['requires-python']}"]:
        requirement = Requirement(text)
        name = wanted[requirement.name]
        of_mindspore = ("2.6.9", "2.7.0", "2.10.0", "2.10.5", "2.11.0rc1", "2.11.0")
        for version in ("1.25.9", "1.26.0", "1.99", "2.0", *of_mindspore, "3.8", "3.9", "3.13"):
            assert examination.is_supported(name, version) == requirement.specifier.contains(version), text


RULE = 52 * "-"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            f"no such operation\n\n{RULE}\n- C++ Call Stack: (For framework developers)\n{RULE}\nfile.cc:1",
            "no such operation",
        ),
        (f"{RULE}\n- Framework Error Message:\n{RULE}\nno such operation\nmore", "no such operation"),
        (f"\n  {RULE}\n", ""),
    ],
    ids=["first", "in-a-section", "none"],
)
def test_the_line_of_an_error_is_its_message(text, line):
    assert one_line(TypeError(text)) == (f"TypeError: {line}" if line else "TypeError")


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_a_rounded_weight_may_be_half_a_unit_off(dtype):
    unit = 2.0 ** -ELEMENT_TYPES[dtype].fraction_bits
    expected = np.array([1.0, 1.5])
    assert tried_steps.worst_error(expected + 0.4 * unit, expected, dtype) < 1
    assert tried_steps.worst_error(expected + 0.6 * unit + 2e-6, expected, dtype) > 1
    assert tried_steps.worst_error(np.array([1.0, np.nan]), expected, dtype) == np.inf
