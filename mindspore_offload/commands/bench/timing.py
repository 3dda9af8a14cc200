"""Times rivals step by step in turn, after their answers have been checked."""

import functools
import random
import statistics
import time
from typing import NamedTuple

import mindspore as ms
import numpy as np

from mindspore_offload import machine
from mindspore_offload.commands import oracle
from mindspore_offload.commands.errors import CommandError
from mindspore_offload.commands.progress import progress
from mindspore_offload.footprint import BYTES

SEED = 1

# Weight (or master) and moments are read and written, the gradient is read; a 16-bit parameter is read and written too.
STEP_BYTES = {"float32": 28, "float16": 30, "bfloat16": 30}
NO_MASTER = 8  # what a 16-bit parameter without a master spares of them
HELD_BYTES = {"float32": 12, "float16": 14, "bfloat16": 14}  # weight, its master if it has 16 bits, and moments

# Seconds before a step. The threads of OpenMP go on spinning for some milliseconds after their work, and would take a
# core from the next rival.
PAUSE = 0.01

CHECKED_AT_ONCE = 2**18  # elements, a dozen float64 arrays of which are small beside what is measured


class Data:
    """Weights and gradients of `tensors` tensors of `size` elements, from `SEED`."""

    def __init__(self, size, tensors):
        random = np.random.default_rng(SEED)
        self.weights = [random.standard_normal(size, np.float32) for _ in range(tensors)]
        self.gradients = [random.standard_normal(size, np.float32) for _ in range(tensors)]

    @functools.cache  # noqa: B019, it lives as long as one table
    def tensors(self, dtype):
        """The gradients as MindSpore has them."""
        return tuple(ms.Tensor(gradient).astype(getattr(ms, dtype)) for gradient in self.gradients)


class Timed(NamedTuple):
    """The steps of one rival: seconds of the first one, which compiles, and of each that was timed."""

    first: float
    seconds: list
    step_bytes: int

    @property
    def median(self):
        return statistics.median(self.seconds)


def needed_memory(params, rivals):
    """Bytes of the data, once a framework and dtype, of what all rivals hold at once, and of what a step makes."""
    data = 8 + sum(BYTES[dtype] for dtype in {rival.dtype for rival in rivals})
    return params * (data + sum(HELD_BYTES[rival.dtype] for rival in rivals) + 12)


def check_memory(params, rivals):
    """Refuses what would not fit, before anything is allocated."""
    rivals = list(rivals)
    needed, available = needed_memory(params, rivals), machine.available_memory()
    if needed > 0.9 * available:
        most = int(params * 0.9 * available / needed) // 1_000_000
        raise CommandError(
            f"{params:,} parameters need {needed / 1e9:.1f} GB for {len(rivals)} rivals, but only "
            f"{available / 1e9:.1f} GB are available; give --params of at most {most}e6"
        )


def time_steps(size, tensors, steps, rivals):
    """Times `steps` steps of each rival, by name, in rounds. Two steps before them warm up; their result is checked.

    Every round has an order of its own, so that nobody always finds the caches and the memory as the same rival left
    them.

    Returns:
        dict[str, Timed]
    """
    data = Data(size, tensors)
    started, timed = {}, {}
    for name, rival in rivals.items():
        progress(f"{name}: first steps, {size * tensors:,} parameters")
        step, result = rival.start(data)
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        step()
        _check(name, rival, result(), data)
        started[name] = step
        timed[name] = Timed(first, [], _step_bytes(rival))
    turns = random.Random(SEED)
    for i in range(steps):
        if i % 5 == 0:
            progress(f"timed step {i + 1} of {steps}, {size * tensors:,} parameters")
        for name in turns.sample(list(started), len(started)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            started[name]()
            timed[name].seconds.append(time.perf_counter() - start)
    return timed


def _step_bytes(rival):
    spared = 0 if rival.dtype == "float32" or rival.has_master else NO_MASTER
    return STEP_BYTES[rival.dtype] - spared


def _check(name, rival, result, data):
    """The last tensor, after two steps with the same gradient.

    A 16-bit one without a master was rounded twice, and the first time perhaps where the unit is twice as large.
    """
    weight, gradient = (_rounded(tensors[-1], rival.dtype) for tensors in (data.weights, data.gradients))
    roundings = 1 if rival.has_master else 3
    error = 0
    for start in range(0, len(weight), CHECKED_AT_ONCE):
        part = slice(start, start + CHECKED_AT_ONCE)
        expected = oracle.adam(weight[part], [gradient[part]] * 2, **rival.expected())
        error = max(error, oracle.worst_error(result[part], expected, rival.dtype, roundings))
    if not error <= 1:
        raise CommandError(
            f"{name} is wrong after two steps, by {error:.3g} times what may be, so its time would mean nothing; "
            f"'doctor' looks for the cause"
        )


def _rounded(array, dtype):
    return ms.Tensor(array).astype(getattr(ms, dtype)).astype(ms.float32).asnumpy()
