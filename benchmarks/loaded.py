# SPDX-License-Identifier: Apache-2.0

"""Times a step while another process keeps one of its cores busy."""

import contextlib
import os
import signal
import subprocess
import time

from benchmarks.process import OWN_SESSION, progress, python
from benchmarks.timing import Data, quartiles

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def time_loaded(rival, shapes, steps):
    """Returns the quartiles of the seconds of a step, "idle" and "loaded" in turn."""
    step, _ = rival.start(Data(shapes))
    step()
    step()
    progress("a step with one core loaded, and without, in turn")
    seconds = {"idle": [], "loaded": []}
    with _busy_process(min(os.sched_getaffinity(0))) as busy:
        for _ in range(steps):
            for state, its_signal in (("idle", signal.SIGSTOP), ("loaded", signal.SIGCONT)):
                busy.send_signal(its_signal)
                time.sleep(0.02)  # it takes the scheduler a moment
                start = time.perf_counter()
                step()
                seconds[state].append(time.perf_counter() - start)
    return {state: quartiles(measured) for state, measured in seconds.items()}


@contextlib.contextmanager
def _busy_process(core):
    with subprocess.Popen(python(BUSY, core), **OWN_SESSION) as process:
        try:
            time.sleep(0.5)  # until it has started
            yield process
        finally:
            process.kill()
