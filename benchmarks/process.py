# SPDX-License-Identifier: Apache-2.0

"""Runs measurements in processes of their own, which never outlive this one.

A new process has all memory free and nothing compiled, and its peak of memory is that of one measurement.
"""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mindspore_offload.errors import CommandError

ROOT = Path(__file__).resolve().parent.parent

PR_SET_PDEATHSIG = 1  # an option of prctl(2)


def progress(text):
    """Tells the user what is being measured, on the standard error stream."""
    print(f"... {text}", file=sys.stderr, flush=True)


def call(function, *arguments, environment=None):
    """Calls ``module:function`` in a new process and returns its result. Arguments and result pass through JSON.

    The process works in a scratch folder, because MindSpore writes files about compilations. Its standard output is
    the standard error stream: MindSpore, PyTorch and DeepSpeed print messages there.
    """
    code = "import sys; from benchmarks.process import answer; answer(*sys.argv[1:])"
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
        command = python(code, function, json.dumps(arguments))
        with subprocess.Popen(command, cwd=folder, env=_variables(environment), stdout=2, **OWN_SESSION) as process:
            try:
                status = process.wait()
            except BaseException:  # an interrupt ends its children, too, as the compiler of DeepSpeed's kernel
                os.killpg(process.pid, signal.SIGKILL)
                raise
        outcome = Path(folder, "outcome.json")
        if status or not outcome.exists():
            raise CommandError(f"{function} failed with status {status}; its message is above")
        answered = json.loads(outcome.read_text())
    if "error" in answered:
        raise CommandError(answered["error"])
    return answered["result"]


def answer(function, arguments):
    """Serves `call` in the new process."""
    module, _, name = function.partition(":")
    try:
        outcome = {"result": getattr(importlib.import_module(module), name)(*json.loads(arguments))}
    except CommandError as error:
        outcome = {"error": str(error)}
    Path("outcome.json").write_text(json.dumps(outcome))


# An interrupt from the terminal reaches the parent alone, and the children end without a traceback.
OWN_SESSION = {"start_new_session": True}


def python(code, *arguments):
    """Returns the command of a Python process that runs `code` and is killed when this process ends in any way."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {__name__} import end_with_parent"
    return [sys.executable, "-c", f"{start}; end_with_parent({os.getpid()})\n{code}", *map(str, arguments)]


def end_with_parent(parent):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


def _variables(more):
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, **(more or {}), "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}


def touch_memory(size):
    """Lets another process touch `size` bytes and return them.

    The host of a virtual machine may have taken the free memory of its guest, and gives it back page by page for
    seconds. That time must not count as the optimizer's.
    """
    code = "import numpy, sys; numpy.ones(int(sys.argv[1]), numpy.uint8)"
    subprocess.run(python(code, size), check=True, **OWN_SESSION)
