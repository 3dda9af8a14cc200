# SPDX-License-Identifier: Apache-2.0

"""Checks what the optimizer uses, in the order in which faults explain each other."""

import os

from mindspore_offload import __version__, machine, native_library
from mindspore_offload.diagnosis import settings, versions
from mindspore_offload.diagnosis.finding import FAILED, NOTE, OK, SKIPPED, WARNING, Finding
from mindspore_offload.errors import one_line


def findings():
    """Yields the findings, each before the next check runs."""
    yield Finding("mindspore_offload", OK, __version__)
    found = [versions.check(name) for name in versions.SUPPORTED]
    yield from found
    yield from (Finding(subject, *check()) for subject, check in settings.CHECKS.items())
    if any(finding.state == FAILED for finding in found):
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
    yield Finding("threads", *_threads(library.MindsporeOffloadThreads(), machine.allowed_cores()))


def _threads(threads, cores):
    asked = next((n for n in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS") if os.environ.get(n)), None)
    text = f"{threads}, on {cores} cores that may be used" + (f", as {asked} says" if asked else "")
    if threads == cores:
        return OK, text
    other = "more threads than cores take turns" if threads > cores else "some cores stay idle"
    return NOTE, f"{text}: {other}", f"unset {asked}, or set MINDSPORE_OFFLOAD_THREADS={cores}" if asked else ""
