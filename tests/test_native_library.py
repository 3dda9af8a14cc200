# SPDX-License-Identifier: Apache-2.0

"""Settings of the native library. Without it, "auto" warns once and trains, and "native" raises an error."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

import mindspore_offload
from mindspore_offload import AdamOffload, AdamWOffload, machine, native_library, update

SOURCE_TREE = Path(__file__).resolve().parent.parent


def missing(path):
    pass


def unreadable(path):
    path.write_bytes(b"not a library")


def of_another_architecture(path):
    content = bytearray(native_library.PATH.read_bytes())
    machine = 18  # where an ELF header holds the architecture, two bytes; the highest number is nobody's
    content[machine : machine + 2] = b"\xff\xff"
    path.write_bytes(content)


BROKEN = {
    "missing": (missing, "does not exist"),
    "unreadable": (unreadable, "can't be loaded"),
    "other-architecture": (of_another_architecture, "can't be loaded"),
}


@pytest.fixture(params=BROKEN)
def broken_library(request, fresh_library, tmp_path):
    """Replaces our library by one that can't be used. Returns what the message must contain."""
    spoil, message = BROKEN[request.param]
    path = tmp_path / "libmindspore_offload.so"
    spoil(path)
    fresh_library.setattr(native_library, "PATH", path)
    update._warn_once.cache_clear()
    return message


def one_parameter():
    return [Parameter(Tensor([1.0, 2.0], mstype.float32), name="weight")]


@pytest.mark.parametrize("optimizer_class", [AdamOffload, AdamWOffload])
def test_auto_warns_once(broken_library, optimizer_class):
    """The warning shows the line that makes the optimizer."""
    with pytest.warns(RuntimeWarning, match=broken_library) as caught:
        optimizer_class(one_parameter())
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer_class(one_parameter())


@pytest.mark.parametrize("broken_library", ["missing"], indirect=True)
@pytest.mark.parametrize("optimizer_class", [AdamOffload, AdamWOffload])
def test_auto_trains(broken_library, optimizer_class):
    parameters = one_parameter()
    with pytest.warns(RuntimeWarning, match=broken_library):
        optimizer = optimizer_class(parameters, learning_rate=0.5, weight_decay=0.0)
    optimizer((Tensor([1.0, -1.0], mstype.float32),))
    np.testing.assert_allclose(parameters[0].asnumpy(), [0.5, 2.5], rtol=1e-6)


def test_native_says_what_to_do(broken_library):
    with pytest.raises(RuntimeError, match=f"'host_kernel' is 'native'.*{broken_library}.*install a C\\+\\+ compiler"):
        AdamOffload(one_parameter(), host_kernel="native")


def test_stock_needs_no_library(broken_library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamOffload(one_parameter(), host_kernel="stock")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MINDSPORE_OFFLOAD_ISA", "avx1024", r"must be one of .*'baseline'.* but it is 'avx1024'"),
        ("MINDSPORE_OFFLOAD_THREADS", "0", "must be a whole number from 1 to 1024, but it is '0'"),
        ("MINDSPORE_OFFLOAD_THREADS", "two", "must be a whole number from 1 to 1024, but it is 'two'"),
        (
            "MS_CUSTOM_AOT_WHITE_LIST",
            "/nowhere",
            "WHITE_LIST must be a folder that holds .*, but it is '/nowhere'; .*unset it",
        ),
        # The environment holds bytes. Python shows those that are no text as surrogates.
        ("MINDSPORE_OFFLOAD_ISA", "avx2\udcff", r"must be one of .* but it is 'avx2\\udcff'"),
        ("MINDSPORE_OFFLOAD_ISA", "x" * 100_000, "must be one of .* but it is 'x{1,100}; set it"),
        ("MINDSPORE_OFFLOAD_THREADS", "\udcff", r"must be a whole number .* but it is '\\udcff'"),
        ("MINDSPORE_OFFLOAD_THREADS", "9" * 100_000, "must be a whole number .* but it is '9{1,100}; set it"),
        ("MS_CUSTOM_AOT_WHITE_LIST", "/\udcff", r"must be a folder .*, but it is '/\\udcff'; .*unset it"),
        ("MS_CUSTOM_AOT_WHITE_LIST", "/" + "x" * 100_000, "must be a folder .*, but it is '/x{1,100}; .*unset it"),
        ("MS_CUSTOM_AOT_WHITE_LIST", "loop", "must be a folder .*, but it is 'loop'; .*unset it"),
    ],
    ids=[
        "isa",
        "no-threads",
        "threads-in-words",
        "white-list",
        "isa-of-bytes",
        "long-isa",
        "threads-of-bytes",
        "threads-of-many-digits",
        "white-list-of-bytes",
        "long-white-list",
        "white-list-in-a-loop",
    ],
)
def test_a_setting_that_cannot_be_honoured_is_an_error(name, value, message, fresh_library, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    fresh_library.chdir(tmp_path)
    fresh_library.setenv(name, value)
    with pytest.raises(RuntimeError, match=message):
        AdamOffload(one_parameter(), host_kernel="native")
    update._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=message):
        AdamOffload(one_parameter(), host_kernel="auto")


def test_instruction_set_can_be_forced(fresh_library):
    fresh_library.setenv("MINDSPORE_OFFLOAD_ISA", "baseline")
    assert native_library.load().MindsporeOffloadIsa() == b"baseline"


@pytest.mark.full
def test_installs_and_trains_without_a_compiler(tmp_path):
    """A wheel built without a compiler has no library and says so; `auto` then trains with a warning."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE_TREE / name, tmp_path)
    no_builds = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(SOURCE_TREE / "mindspore_offload", tmp_path / "mindspore_offload", ignore=no_builds)
    build = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", "wheels", "."],
        cwd=tmp_path,
        env={**os.environ, "CC": "/nowhere/cc", "CXX": "/nowhere/c++"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the native library was NOT built" in build.stdout + build.stderr
    (wheel,) = (tmp_path / "wheels").glob(f"mindspore_offload-{mindspore_offload.__version__}-py3-none-any.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    assert not list(installed.rglob("*.so"))

    program = (
        "import mindspore_offload, mindspore as ms\n"
        f"assert mindspore_offload.__file__.startswith({str(installed)!r})\n"
        "ms.set_context(mode=ms.GRAPH_MODE)\n"
        "weight = ms.Parameter(ms.Tensor([1.0]), name='weight')\n"
        "mindspore_offload.AdamOffload([weight], 0.5)((ms.Tensor([1.0]),))\n"
        "print(float(weight.asnumpy()[0]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=installed, env=environment, capture_output=True, text=True, check=True
    )
    assert float(run.stdout.splitlines()[-1]) == pytest.approx(0.5)
    assert "does not exist" in run.stderr


@pytest.fixture
def large_machine(fresh_library):
    """Lets the process have 64 cores, in a container without limits."""
    fresh_library.setattr(machine, "container_cores", lambda: float("inf"))
    fresh_library.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    for name in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS"):
        fresh_library.delenv(name, raising=False)
    return fresh_library


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({"MINDSPORE_OFFLOAD_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": " 5 "}, 5),
        ({"MINDSPORE_OFFLOAD_THREADS": "0" * 5000 + "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 64),
        ({"OMP_NUM_THREADS": "9" * 5000}, 64),
        ({"OMP_NUM_THREADS": "\udcff"}, 64),
        ({}, 64),
    ],
    ids=[
        "own",
        "openmp",
        "openmp-with-spaces",
        "leading-zeros",
        "openmp-list",
        "openmp-of-many-digits",
        "openmp-of-bytes",
        "cores",
    ],
)
def test_number_of_threads(settings, threads, large_machine):
    for name, value in settings.items():
        large_machine.setenv(name, value)
    assert native_library.load().MindsporeOffloadThreads() == threads


@pytest.mark.parametrize(("limit", "threads"), [(2.5, 3), (0.5, 1), (100, 64)], ids=["some", "half", "more-than-cores"])
def test_the_limit_of_a_container(limit, threads, large_machine):
    large_machine.setattr(machine, "container_cores", lambda: limit)
    assert native_library.load().MindsporeOffloadThreads() == threads


# Starts workers as `msrun` does: children of one process, with their role in the environment.
START_WORKERS = """
import os, subprocess, sys
code = '''
import time
from mindspore_offload import machine, native_library
time.sleep(1)
machine.container_cores = lambda: float("inf")
machine.os.sched_getaffinity = lambda process: set(range(12))
print(f"{native_library.load().MindsporeOffloadThreads()}\\\\n", end="", flush=True)
time.sleep(1)  # the others count this one until they have printed
'''
os.environ["OMP_NUM_THREADS"] = "1"  # as MindSpore has it in msrun
workers = [{**os.environ, "MS_ROLE": "MS_WORKER", "DEVICE_ID": str(device)} for device in range(3)]
started = [subprocess.Popen([sys.executable, "-c", code], env=worker) for worker in workers]
showing_a_log = subprocess.Popen(["sleep", "60"], env=workers[0])
status = max(process.wait() for process in started)
showing_a_log.kill()
sys.exit(status)
"""


def test_workers_on_one_machine_share_its_cores():
    environment = {k: v for k, v in os.environ.items() if k not in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS")}
    output = subprocess.run(
        [sys.executable, "-c", START_WORKERS], check=True, capture_output=True, text=True, env=environment
    )
    assert output.stdout.split() == ["4", "4", "4"]
