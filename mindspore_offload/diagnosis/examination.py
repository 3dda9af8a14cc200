# SPDX-License-Identifier: Apache-2.0

"""Checks what the optimizer uses, in the order in which faults explain each other."""

import importlib.metadata
import os
import platform
import re

from mindspore_offload import __version__, machine, native_library
from mindspore_offload.diagnosis.finding import FAILED, NOTE, OK, SKIPPED, WARNING, Finding
from mindspore_offload.errors import one_line

# As in pyproject.toml: the first release that is supported, and the first that no longer is.
SUPPORTED = {"Python": ("3.9", "3.13"), "MindSpore": ("2.7.0", "2.11"), "numpy": ("1.26", "2")}
WHY = {"numpy": "; with numpy 2, MindSpore's bfloat16 tensors and its NumpySlicesDataset fail"}


def findings():
    """Yields the findings, each before the next check runs."""
    yield Finding("mindspore_offload", OK, __version__)
    versions = [_version(name) for name in SUPPORTED]
    yield from versions
    yield from _environment()
    if any(finding.state == FAILED for finding in versions):
        # An unsupported version may crash a step, and then the finding about the version would be lost.
        yield from _library(needed=False)
        yield Finding("training step", SKIPPED, "not tried with these versions")
        return
    try:
        import mindspore
    except Exception as error:
        yield from _library(needed=False)
        yield Finding("MindSpore", FAILED, f"can't be imported: {one_line(error)}", "reinstall it, or what it needs")
        return
    from mindspore_offload.diagnosis import steps

    mindspore.set_context(enable_compile_cache=False)  # the steps here are neither read from it nor stored in it
    device = mindspore.get_context("device_target")
    yield Finding("device target", OK, device)
    library = list(_library(needed=device == "CPU"))
    yield from library
    yield from steps.check(device, has_library=library[0].state == OK)


def _version(name):
    """Checks the version of Python or of an installed distribution, which it does not import."""
    first, beyond = SUPPORTED[name]
    wanted = f"at least {first} and below {beyond} is supported"
    cure = f"pip install '{name.lower()}>={first},<{beyond}'"
    if name == "Python":
        cure = "install mindspore_offload into an environment of Python 3.9 to 3.12"
    try:
        version = platform.python_version() if name == "Python" else importlib.metadata.version(name.lower())
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, FAILED, "is not installed", cure)
    if is_supported(name, version):
        return Finding(name, OK, f"{version}; {wanted}")
    return Finding(name, FAILED, f"{version}, but {wanted}{WHY.get(name, '')}", cure)


def is_supported(name, version):
    """Returns True for a version in the range. The numbers are compared: 2, 10, 0 and 1 of "2.10.0rc1"."""
    first, beyond = map(_numbers, SUPPORTED[name])
    return first <= _numbers(version) < beyond


def _numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)]


def _environment():
    """Describes the machine and the environment variables that matter."""
    yield Finding("CPU", OK, f"{machine.cpu_name()}, {platform.machine()}, {os.cpu_count()} cores")
    cores, (memory, _) = machine.container_cores(), machine.container_memory()
    limit = "no limit of its time" if cores == float("inf") else f"time of {cores:g} cores"
    yield Finding("cores", OK, f"{len(os.sched_getaffinity(0))} by affinity; container: {limit}")
    limit = "no limit" if memory == float("inf") else f"{memory / 1e9:.1f} GB"
    yield Finding("memory", OK, f"{machine.available_memory() / 1e9:.1f} GB are available; container: {limit}")
    nodes = [f"node {number} has cores {listed}" for number, listed in machine.numa_nodes().items()]
    note = f"{', '.join(nodes)}; a state is on the node of the thread that first wrote it"
    yield _noted("NUMA", len(nodes) > 1, note, "one node")
    white_list, cache = "MS_CUSTOM_AOT_WHITE_LIST", "MS_COMPILER_CACHE_ENABLE"
    value = os.environ.get(white_list)
    yield _noted("white list", value is not None, f"{white_list} is {value!r}", f"{white_list} is not set")
    note = f"{cache} is 1: delete the cache after an upgrade, which MindSpore does not notice"
    yield _noted("compile cache", os.environ.get(cache) == "1", note, f"{cache} is not 1")
    openmp = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("OMP_")]
    yield _noted("OpenMP", openmp, ", ".join(openmp), "no OMP_ variable is set")


def _noted(subject, is_noted, note, usual):
    return Finding(subject, NOTE, note) if is_noted else Finding(subject, OK, usual)


def _library(needed):
    try:
        library = native_library.load()
    except native_library.NativeLibraryError as error:
        cause, _, cure = str(error).partition("; ")
        state = FAILED if needed else WARNING
        yield Finding("native library", state, cause, cure or "host_kernel='stock' works without")
        return
    yield Finding("native library", OK, f"{native_library.PATH}, built by {library.MindsporeOffloadBuild().decode()}")
    active, supported = library.MindsporeOffloadIsa().decode(), library.MindsporeOffloadSupportedIsas().decode()
    asked = os.environ.get("MINDSPORE_OFFLOAD_ISA")
    why = "asked for by MINDSPORE_OFFLOAD_ISA" if asked else "the best that it holds and this CPU runs"
    yield Finding("instruction set", OK, f"{active}, {why}; could be: {', '.join(supported.split())}")
    yield _threads(library.MindsporeOffloadThreads(), machine.allowed_cores())


def _threads(threads, cores):
    asked = next((n for n in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS") if os.environ.get(n)), None)
    text = f"{threads}, on {cores} cores that may be used" + (f", as {asked} says" if asked else "")
    if threads == cores:
        return Finding("threads", OK, text)
    other = "more threads than cores take turns" if threads > cores else "some cores stay idle"
    cure = f"unset {asked}, or set MINDSPORE_OFFLOAD_THREADS={cores}" if asked else ""
    return Finding("threads", NOTE, f"{text}: {other}", cure)
