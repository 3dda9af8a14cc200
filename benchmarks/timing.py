# SPDX-License-Identifier: Apache-2.0

"""Times rivals step by step in turn, after their answers have been checked."""

import functools
import random
import statistics
import time
from dataclasses import dataclass

import mindspore as ms
import numpy as np

from benchmarks.bare_loop import LEARNING_RATE
from benchmarks.process import progress
from mindspore_offload.diagnosis.steps import worst_error
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES, EXACT, MOMENT_FORMATS

SEED = 1

# Weight (or master) and moments are read and written, the gradient is read; a 16-bit parameter is read and written too.
STEP_BYTES = {"float32": 28, "float16": 30, "bfloat16": 30}
HELD_BYTES = {"float32": 12, "float16": 14, "bfloat16": 14}  # weight, its master if it has 16 bits, and moments
NO_MASTER = 8  # bytes of a master, not moved for a 16-bit parameter without one
# Bytes less to hold, by the dtype of the moments; twice as many less to move.
SPARED = {name: EXACT.bytes(1) - row.bytes(row.block) / row.block for name, row in MOMENT_FORMATS.items()}

# Seconds before a step. Threads of OpenMP spin for some milliseconds after their work, and would take a core from the
# next rival.
PAUSE = 0.01

CHECKED_AT_ONCE = 2**18  # elements; a dozen float64 arrays of this size are small beside the measured tensors


class Data:
    """Weights and gradients of these shapes, from `SEED`."""

    def __init__(self, shapes):
        generator = np.random.default_rng(SEED)
        self.weights = [generator.standard_normal(shape, np.float32) for shape in shapes]
        self.gradients = [generator.standard_normal(shape, np.float32) for shape in shapes]

    @property
    def size(self):
        return sum(weight.size for weight in self.weights)

    @functools.cache  # noqa: B019, it lives as long as one table
    def tensors(self, dtype):
        """Returns the gradients as Tensors, to be passed to an optimizer."""
        return tuple(ms.Tensor(gradient).astype(getattr(ms, dtype)) for gradient in self.gradients)

    @functools.cache  # noqa: B019, it lives as long as one table
    def parameters(self, dtype):
        """Returns the gradients as Parameters, to be held by a graph."""
        dtype = getattr(ms, dtype)
        return [
            ms.Parameter(ms.Tensor(gradient).astype(dtype), name=f"gradient{i}", requires_grad=False)
            for i, gradient in enumerate(self.gradients)
        ]


@dataclass
class Timed:
    """The seconds of one rival's first step, which compiles, and of each timed step."""

    first: float
    seconds: list
    step_bytes: float

    def row(self, name, size, reference):
        """Returns a row of the report, for `size` parameters, relative to the seconds `reference`."""
        low, median, high = quartiles(self.seconds)
        return {
            "name": name,
            "ms": median * 1e3,
            "ms_low": low * 1e3,
            "ms_high": high * 1e3,
            "ns_a_parameter": median / size * 1e9,
            "gb_s": self.step_bytes * size / median / 1e9,
            "relative": median / reference,
            "first_step_s": self.first,
        }


def quartiles(seconds):
    return statistics.quantiles(seconds, n=4, method="inclusive")


def needed_bytes(size, rivals):
    """Returns the bytes for `size` parameters: the data, everything that the rivals hold at once, and a step's results.

    Rivals of one dtype that take their gradients alike share them.
    """
    rivals = list(rivals)
    gradients = {(rival.dtype, rival.gradients) for rival in rivals if rival.gradients != "NumPy"}
    data = 8 + sum(ELEMENT_TYPES[dtype].size for dtype, _ in gradients)
    return size * (data + sum(HELD_BYTES[rival.dtype] - SPARED[rival.moment_dtype] for rival in rivals) + 12)


def time_steps(shapes, steps, rivals):
    """Times `steps` steps of each rival, by name, in rounds. Two steps before them warm up; their result is checked.

    Every round has another order, so that no rival always finds the caches and the memory as the same one left them.

    Returns:
        dict[str, Timed]
    """
    data = Data(shapes)
    started, timed = {}, {}
    for name, rival in rivals.items():
        progress(f"{name}: first steps, {data.size:,} parameters")
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
            progress(f"timed step {i + 1} of {steps}, {data.size:,} parameters")
        for name in turns.sample(list(started), len(started)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            started[name]()
            timed[name].seconds.append(time.perf_counter() - start)
    return timed


def _step_bytes(rival):
    spared = 0 if rival.dtype == "float32" or rival.has_master else NO_MASTER
    return STEP_BYTES[rival.dtype] - spared - 2 * SPARED[rival.moment_dtype]


def _check(name, rival, result, data):
    """Compares the last tensor, after two steps with the same gradient, with Adam in float64.

    A 16-bit one without a master was rounded twice, and the first time perhaps where the unit is twice as large.
    bfloat16 and uint8 moments were rounded after the first step.
    """
    weight, gradient = (_rounded(tensors[-1], rival.dtype).ravel() for tensors in (data.weights, data.gradients))
    result = result.ravel()
    roundings = 1 if rival.has_master else 3
    moments, largest, error = MOMENT_FORMATS[rival.moment_dtype], max(gradient.max(), -gradient.min()), 0
    for start in range(0, len(weight), CHECKED_AT_ONCE):
        part = slice(start, start + CHECKED_AT_ONCE)
        oracle = rival.oracle(weight[part])
        for _ in range(2):
            oracle.step([gradient[part]])
        slack = _slack(moments, np.abs(gradient[part]) / largest)
        error = max(error, worst_error(result[part], oracle.weights[0], rival.dtype, roundings, slack))
    if not error <= 1:
        raise CommandError(
            f"{name} is wrong after two steps, by {error:.3g} times the allowed error, so its time would mean "
            f"nothing; 'python -m mindspore_offload doctor' looks for the cause"
        )


def _slack(moments, sizes):
    """Returns how far the second of two equal steps may be off if the first one left both moments as a neighbour.

    Half of each moment is from the first step. Codes also have a least number for each moment, which depends on the
    largest one.

    Args:
        moments (MomentFormat): The format.
        sizes (numpy.ndarray): The absolute values of the gradient, divided by the largest one.
    """
    least1, least2 = (2.0**-14, 2.0**-30) if moments.has_codes else (0.0, 0.0)
    sizes = np.maximum(sizes, 1e-18)  # whose square is a float32, too
    error1, error2 = moments.unit + least1 / sizes, moments.unit + least2 / sizes**2
    return LEARNING_RATE * ((1 + error1 / 2) / np.sqrt(1 - np.minimum(error2, 1) / 2) - 1)


def _rounded(array, dtype):
    return ms.Tensor(array).astype(getattr(ms, dtype)).astype(ms.float32).asnumpy()
