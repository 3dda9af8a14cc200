# SPDX-License-Identifier: Apache-2.0

"""``doctor``: checks that everything works on this machine, and says what to do where it does not."""

import importlib.metadata
import json
import os
import platform
import textwrap
from typing import NamedTuple

from mindspore_offload import __version__, machine, native_library
from mindspore_offload.errors import one_line
from mindspore_offload.formats import EXACT, MOMENT_FORMATS

HELP = "prints checks of everything that is used on this machine, and a cure for each fault"

# As in pyproject.toml: the first release that is supported, and the first that no longer is.
SUPPORTED = {"Python": ((3, 9), (3, 13)), "MindSpore": ((2, 7, 0), (2, 11)), "numpy": ((1, 26), (2,))}
WHY_NUMPY = "; with numpy 2, MindSpore's bfloat16 tensors and its NumpySlicesDataset fail"
CURES = {
    "Python": "install mindspore_offload into an environment of Python 3.9 to 3.12",
    "MindSpore": "pip install 'mindspore>=2.7.0,<2.11' 'numpy>=1.26,<2'",
    "numpy": "pip install 'numpy>=1.26,<2'",
}

OK, NOTE, WARNING, FAILED, SKIPPED = "ok", "note", "warning", "failed", "skipped"


class Finding(NamedTuple):
    """The result of one check. A fault is `FAILED` if the optimizer would use that part by default, else `WARNING`."""

    subject: str
    state: str
    text: str
    cure: str = ""

    def __str__(self):
        paragraphs = [f"{self.state:9}{self.subject:18}{self.text}"]
        if self.cure:
            paragraphs.append(f"{'':27}cure: {self.cure}")
        layout = {"width": 120, "subsequent_indent": " " * 27, "break_on_hyphens": False, "break_long_words": False}
        return "\n".join(textwrap.fill(text, **layout) for text in paragraphs)


def add_options(parser):
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments):
    """Prints the findings. Returns 0 if everything works that the optimizer uses by default, else 1."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not arguments.json:
            print(finding)
    healthy = all(finding.state != FAILED for finding in findings)
    if arguments.json:
        print(json.dumps({"healthy": healthy, "findings": [finding._asdict() for finding in findings]}, indent=2))
    else:
        print("\nEverything that is used by default works." if healthy else "\nNot everything works: see above.")
    return 0 if healthy else 1


def examine():
    """Yields the findings, each before the next check runs."""
    yield Finding("mindspore_offload", OK, __version__)
    versions = [_version_of(name) for name in SUPPORTED]
    yield from versions
    yield from _settings()
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
    mindspore.set_context(enable_compile_cache=False)  # the steps here are neither read from it nor stored in it
    device = mindspore.get_context("device_target")
    yield Finding("device target", OK, device)
    yield from _library(needed=device == "CPU")
    yield from _training(device)


def _version_of(name):
    """Checks the version of the installed distribution, without importing it."""
    try:
        text = platform.python_version() if name == "Python" else importlib.metadata.version(name.lower())
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, FAILED, "is not installed", CURES[name])
    first, beyond = SUPPORTED[name]
    wanted = f"at least {_dotted(first)} and below {_dotted(beyond)} is supported"
    if first <= _release(text) < beyond:
        return Finding(name, OK, f"{text}; {wanted}")
    return Finding(name, FAILED, f"{text}, but {wanted}{WHY_NUMPY if name == 'numpy' else ''}", CURES[name])


def _release(version):
    """Returns the numbers at the start of a version: (2, 10, 0) for "2.10.0rc1"."""
    numbers = []
    for part in version.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _dotted(release):
    return ".".join(map(str, release))


def _settings():
    """Describes the machine and the environment variables that matter."""
    cores = os.sched_getaffinity(0)
    yield Finding("CPU", OK, f"{machine.cpu_name()}, {platform.machine()}, {os.cpu_count()} cores")
    limit = machine.container_cores()
    container = "no limit of its time" if limit == float("inf") else f"time of {limit:g} cores"
    yield Finding("cores", OK, f"{len(cores)} by affinity; container: {container}")
    size, _ = machine.container_memory()
    container = "no limit" if size == float("inf") else f"{size / 1e9:.1f} GB"
    yield Finding("memory", OK, f"{machine.available_memory() / 1e9:.1f} GB are available; container: {container}")
    nodes = machine.numa_nodes()
    if len(nodes) > 1:
        text = ", ".join(f"node {number} has cores {listed}" for number, listed in nodes.items())
        yield Finding("NUMA", NOTE, f"{text}; a state is on the node of the thread that first wrote it")
    else:
        yield Finding("NUMA", OK, "one node")
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    text = f"MS_CUSTOM_AOT_WHITE_LIST is {'not set' if allowed is None else repr(allowed)}"
    yield Finding("white list", OK if allowed is None else NOTE, text)
    cached = os.environ.get("MS_COMPILER_CACHE_ENABLE") == "1"
    text = "is 1: delete the cache after an upgrade, which MindSpore does not notice" if cached else "is not 1"
    yield Finding("compile cache", NOTE if cached else OK, f"MS_COMPILER_CACHE_ENABLE {text}")
    openmp = {name: value for name, value in sorted(os.environ.items()) if name.startswith("OMP_")}
    text = ", ".join(f"{name}={value}" for name, value in openmp.items()) or "no OMP_ variable is set"
    yield Finding("OpenMP", NOTE if openmp else OK, text)


def _library(needed):
    try:
        library = native_library.load()
    except native_library.NativeLibraryError as error:
        cause, _, cure = str(error).partition("; ")
        yield Finding(
            "native library", FAILED if needed else WARNING, cause, cure or "host_kernel='stock' works without"
        )
        return
    yield Finding("native library", OK, f"{native_library.PATH}, built by {library.MindsporeOffloadBuild().decode()}")
    active, supported = library.MindsporeOffloadIsa().decode(), library.MindsporeOffloadSupportedIsas().decode()
    asked = os.environ.get("MINDSPORE_OFFLOAD_ISA")
    why = "asked for by MINDSPORE_OFFLOAD_ISA" if asked else "the best that it holds and this CPU runs"
    yield Finding("instruction set", OK, f"{active}, {why}; could be: {', '.join(supported.split())}")
    threads, cores = library.MindsporeOffloadThreads(), machine.allowed_cores()
    asked = next((n for n in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS") if os.environ.get(n)), None)
    text = f"{threads}, on {cores} cores that may be used" + (f", as {asked} says" if asked else "")
    if threads == cores:
        yield Finding("threads", OK, text)
    else:
        other = "more threads than cores take turns" if threads > cores else "some cores stay idle"
        cure = f"unset {asked}, or set MINDSPORE_OFFLOAD_THREADS={cores}" if asked else ""
        yield Finding("threads", NOTE, f"{text}: {other}", cure)


def _training(device):
    """Tries the defaults first, then what can be asked for: host operations, writebacks, moments. Then times a step."""
    from mindspore_offload.commands import training_check

    default = _step(training_check, "auto", "auto", FAILED, "the findings above may be the cause")
    yield default
    for host_kernel, other in (("native", "stock"), ("stock", "native")):
        for writeback in ("in_place", "assign") if device == "CPU" else ("assign",):
            if host_kernel == "native" and not _native_works():
                yield Finding("training step", SKIPPED, f"{host_kernel}, {writeback}: without the native library")
            else:
                yield _step(training_check, host_kernel, writeback, WARNING, f"use host_kernel='{other}'")
    for moments in MOMENT_FORMATS.values():
        if moments.is_stochastic and _native_works():
            cure = f"use moment_dtype=mindspore.{EXACT.name}"
            yield _step(training_check, "native", "auto", WARNING, cure, moment_dtype=moments.name)
        elif moments.is_stochastic:
            yield Finding("training step", SKIPPED, f"{moments.name} moments: without the native library")
    speed = _speed(device) if default.state == OK else Finding("speed", SKIPPED, "not measured without a right step")
    yield speed
    if device == "CPU":
        text = "less than 1.0 saves no time on the CPU device, where host and device share their memory"
        yield Finding("offload_ratio", NOTE, text)
    elif speed.state == OK:
        yield _gain()


def _step(training_check, host_kernel, writeback, bad, cure, moment_dtype="float32"):
    wrong = training_check.failures(host_kernel, writeback, moment_dtype)
    tried = f"{host_kernel}, {writeback}" if moment_dtype == "float32" else f"{moment_dtype} moments"
    if wrong:
        text = "; ".join(f"{dtype}: {what}" for dtype, what in wrong.items())
        return Finding("training step", bad, f"{tried}: {text}", cure)
    text = f"{tried}: float32, float16 and bfloat16 weights as in float64"
    if host_kernel == "auto" and not _native_works():
        text += ", by MindSpore's own, slower operations"
    return Finding("training step", OK, text)


def _speed(device):
    from mindspore_offload.commands import step_speed
    from mindspore_offload.planning.memory_speed import BYTES_A_PARAMETER

    if machine.available_memory() < 2 * step_speed.BYTES:
        return Finding("speed", SKIPPED, f"a step to be timed needs {2 * step_speed.BYTES / 1e9:.1f} GB of memory")
    seconds = step_speed.seconds_of_a_step()
    nanoseconds = seconds / step_speed.PARAMS * 1e9
    text = f"{seconds * 1e3:.1f} ms a step of {step_speed.PARAMS:,} float32 parameters, {nanoseconds:.2f} ns each"
    if device == "CPU":  # elsewhere the link is part of the time
        text += f", {BYTES_A_PARAMETER / nanoseconds:.1f} GB/s"
    return Finding("speed", OK, text)


def _gain():
    """Times a step on an accelerator with all states on the host, and with half of them."""
    from mindspore_offload.commands import step_speed

    whole, half = (1e3 * step_speed.seconds_of_a_step(ratio) for ratio in (1.0, 0.5))
    text = f"{whole:.1f} ms a step with 1.0, {half:.1f} ms with 0.5, {half / whole:.0%} of it"
    return Finding("offload_ratio", OK, text)


def _native_works():
    try:
        native_library.load()
    except native_library.NativeLibraryError:
        return False
    return True
