# SPDX-License-Identifier: Apache-2.0

"""A child process in which MindSpore has the second memory as its GPU, or the CPU as its device."""

import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path
from unittest import mock

import build

FOLDER = Path(__file__).parent.parent.parent / "build" / "second_memory"
ENVIRONMENT = build.environment(FOLDER)
LOG = "SECOND_MEMORY_LOG"
LONGEST = 120  # seconds of a scenario; one that hangs is killed


class ScenarioError(Exception):
    """The child process raised an error or died. Not an AssertionError: no result was compared."""


class Worker:
    """Runs functions of `scenarios` in a process of its own, which is started when it is first needed.

    Starting MindSpore takes seconds, so a process serves many tests. One that dies, because host code touched device
    memory for example, fails the test and is replaced for the next one.

    Args:
        target (str): "GPU" for the second memory, or "CPU".
        jit_level (str): "O0" or "O1".
        dispatch_threads (int): As of `ms.runtime.dispatch_threads_num`.
        log (Path): The file in which a second memory logs its copies and kernels.
        mutant (Optional[str]): The function of `mutants` that changes the package in the process.
        variables (dict[str, str]): More environment variables.
    """

    def __init__(self, target, jit_level, dispatch_threads, log, mutant=None, variables=None):
        self._arguments = target, jit_level, dispatch_threads, mutant
        self._variables = {"GLOG_v": "3", LOG: str(log), **(variables or {})}
        if target == "GPU":
            self._variables |= ENVIRONMENT
        self._process = None

    def run(self, scenario, *arguments, **settings):
        """The result of `scenarios.<scenario>(*arguments, **settings)`; a name with a dot is of another module."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((scenario, arguments, settings))
            if not self._connection.poll(LONGEST):
                self._process.kill()  # recv then reports its death
            is_result, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code, self._process = self._process.exitcode, None
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ScenarioError(f"the process died of {reason}; its last words are in the captured stderr") from None
        if not is_result:
            raise ScenarioError(value)
        return value

    def stop(self):
        if self._process is not None:
            self._connection.close()
            self._process.join()
            self._process = None

    def _start(self):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        with mock.patch.dict(os.environ, self._variables):
            self._process.start()
        theirs.close()


def _serve(connection, target, jit_level, dispatch_threads, mutant):
    import mindspore as ms

    ms.set_device(target)
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": jit_level})
    ms.runtime.dispatch_threads_num(dispatch_threads)
    if mutant:
        import mutants

        getattr(mutants, mutant)()
    while True:
        try:
            scenario, arguments, settings = connection.recv()
        except EOFError:
            sys.exit()
        module, _, name = scenario.rpartition(".")
        try:
            answer = True, getattr(importlib.import_module(module or "scenarios"), name)(*arguments, **settings)
        except Exception:
            answer = False, traceback.format_exc()
        connection.send(answer)
