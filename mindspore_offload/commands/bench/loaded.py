"""How much slower a step is while something else keeps one of its cores busy."""

import contextlib
import os
import signal
import statistics
import subprocess
import time

from mindspore_offload.commands import child
from mindspore_offload.commands.bench.timing import Data
from mindspore_offload.commands.progress import progress

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


def measure(rival, size, tensors, steps):
    """Seconds of a step, the medians idle and with one core loaded, in turn."""
    step, _ = rival.start(Data(size, tensors))
    step()
    step()
    progress("a step with one core loaded, and without, in turn")
    seconds = {"idle": [], "loaded": []}
    with _busy_process(min(os.sched_getaffinity(0))) as busy:
        for _ in range(steps):
            for state, signal_of_it in (("idle", signal.SIGSTOP), ("loaded", signal.SIGCONT)):
                busy.send_signal(signal_of_it)
                time.sleep(0.02)  # it takes the scheduler a moment
                start = time.perf_counter()
                step()
                seconds[state].append(time.perf_counter() - start)
    return {state: statistics.median(taken) for state, taken in seconds.items()}


@contextlib.contextmanager
def _busy_process(core):
    with subprocess.Popen(child.command(BUSY, core), start_new_session=True) as process:
        try:
            time.sleep(0.5)  # until it has started
            yield process
        finally:
            process.kill()
