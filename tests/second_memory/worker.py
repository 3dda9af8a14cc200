# SPDX-License-Identifier: Apache-2.0

"""A child process in which MindSpore has the second memory as its GPU, or the CPU as its device."""

import multiprocessing
import os
import signal
import sys
import traceback
from pathlib import Path
from unittest import mock

import build

FOLDER = Path(__file__).parent.parent.parent / "build" / "second_memory"
LOG = "SECOND_MEMORY_LOG"


class Worker:
    """Runs functions of `scenarios` in a process of its own, which is started when it is first needed.

    Starting MindSpore takes seconds, so a process serves many tests. One that dies, because host code touched device
    memory for example, fails the test and is replaced for the next one.

    Args:
        target (str): "GPU" for the second memory, or "CPU".
        jit_level (str): "O0" or "O1".
        dispatch_threads (int): As of `ms.runtime.dispatch_threads_num`.
        log (Path): The file for the copies of a second memory.
    """

    def __init__(self, target, jit_level, dispatch_threads, log):
        self._arguments = target, jit_level, dispatch_threads
        self._variables = {"GLOG_v": "3", LOG: str(log)}
        if target == "GPU":
            self._variables |= build.environment(FOLDER)
        self._process = None

    def run(self, scenario, *arguments, **settings):
        """The result of `scenarios.<scenario>(*arguments, **settings)`."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((scenario, arguments, settings))
            is_result, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code, self._process = self._process.exitcode, None
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise AssertionError(f"the process died of {reason}; its last words are in the captured stderr") from None
        if not is_result:
            raise AssertionError(value)
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


def _serve(connection, target, jit_level, dispatch_threads):
    import mindspore as ms

    ms.set_device(target)
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": jit_level})
    ms.runtime.dispatch_threads_num(dispatch_threads)
    import scenarios

    while True:
        try:
            scenario, arguments, settings = connection.recv()
        except EOFError:
            sys.exit()
        try:
            answer = True, getattr(scenarios, scenario)(*arguments, **settings)
        except Exception:
            answer = False, traceback.format_exc()
        connection.send(answer)
