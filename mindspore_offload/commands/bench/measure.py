"""Measures a step of this optimizer on this machine, next to MindSpore's own and to a bare loop over the same bytes."""

import ctypes
import multiprocessing
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindspore_offload import AdamOffload, __version__, native_library

SEED = 1
LEARNING_RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
# Weight (or master) and moments are read and written, the gradient is read; a 16-bit parameter is read and written too.
BYTES_A_PARAMETER = {ms.float32: 28, ms.float16: 30, ms.bfloat16: 30}


class Rival(NamedTuple):
    """An optimizer, and the dtype of the parameters and gradients that it gets."""

    optimizer: Callable
    settings: dict
    dtype: ms.Type = ms.float32

    def make(self, parameters):
        return self.optimizer(parameters, **self.settings)


NATIVE, STOCK = {"host_kernel": "native"}, {"host_kernel": "stock"}
ALL = {
    "AdamOffload": Rival(AdamOffload, NATIVE),
    "AdamOffload, decay and loss scale": Rival(AdamOffload, {**NATIVE, "weight_decay": 1e-4, "loss_scale": 1024.0}),
    "AdamOffload, assign": Rival(AdamOffload, {**NATIVE, "writeback": "assign"}),
    "AdamOffload, stock": Rival(AdamOffload, STOCK),
    "AdamOffload, float16": Rival(AdamOffload, NATIVE, ms.float16),
    "AdamOffload, bfloat16": Rival(AdamOffload, NATIVE, ms.bfloat16),
    "AdamOffload, float16, stock": Rival(AdamOffload, STOCK, ms.float16),
    "nn.Adam": Rival(nn.Adam, {}),
    "nn.AdamOffload": Rival(nn.AdamOffload, {}),
}
MAIN = ("AdamOffload", "nn.Adam", "nn.AdamOffload")


def run(params, tensors, layers, steps):
    """Prints all tables. `params` in `tensors` equal tensors; `layers` of Dense(4096); `steps` timed of each rival."""
    ms.set_context(mode=ms.GRAPH_MODE)
    library = native_library.load()
    print(
        f"mindspore_offload {__version__}, MindSpore {ms.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {_cpu()}, {library.MindsporeOffloadIsa().decode()}, "
        f"{library.MindsporeOffloadThreads()} threads, seed {SEED}"
    )
    _print_speed(params, tensors, steps, ALL)
    _print_speed(300 * 4096, 300, steps, MAIN)
    _print_memory(layers)


def _print_speed(params, tensors, steps, names):
    size = params // tensors
    times = time_steps(size, tensors, steps, names)
    print(f"\nOne step, {size * tensors:,} parameters in {tensors} tensors, median of {steps}, alternated")
    print(f"{'':36}{'ms':>9}{'spread':>15}{'ns/param':>10}{'GB/s':>7}{'of AdamOffload':>16}")
    ours = statistics.median(times["AdamOffload"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ns = median / (size * tensors) * 1e9
        spread = f"{min(seconds) * 1e3:.1f}-{max(seconds) * 1e3:.1f}"
        needed = BYTES_A_PARAMETER[ALL[name].dtype if name in ALL else ms.float32]
        print(f"{name:36}{median * 1e3:9.1f}{spread:>15}{ns:10.2f}{needed / ns:7.1f}{median / ours:15.2f}x")


def time_steps(size, tensors, steps, names):
    """Seconds of each step, a list for each rival, after two steps that warm up and whose result is checked."""
    random = np.random.default_rng(SEED)
    weights = [random.standard_normal(size, np.float32) for _ in range(tensors)]
    gradients = [random.standard_normal(size, np.float32) for _ in range(tensors)]
    rivals = {"bare loop": _bare_loop(weights, gradients)}
    inputs = {
        dtype: tuple(Tensor(gradient).astype(dtype) for gradient in gradients)
        for dtype in {ALL[name].dtype for name in names}
    }
    for name in names:
        rivals[name] = _step(ALL[name], weights, inputs[ALL[name].dtype])
    for name, (step, result) in rivals.items():
        step()
        step()
        if "decay" not in name and "float16" not in name:
            _check(name, result(), weights[-1], gradients[-1])
    times = {name: [] for name in rivals}
    for _ in range(steps):
        for name, (step, _) in rivals.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def _step(rival, weights, gradients):
    parameters = [Parameter(Tensor(w).astype(rival.dtype), name=f"weight{i}") for i, w in enumerate(weights)]
    optimizer = rival.make(parameters)
    return lambda: optimizer(gradients), parameters[-1].asnumpy


def _bare_loop(weights, gradients):
    library = native_library.load()
    loop = library.MindsporeOffloadBareLoop
    loop.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_size_t, ctypes.c_float, ctypes.c_size_t]
    arrays = [(w.copy(), np.zeros_like(w), np.zeros_like(w), g) for w, g in zip(weights, gradients)]
    taken = 0

    def step():
        nonlocal taken
        taken += 1
        rate = LEARNING_RATE * (1 - BETA2**taken) ** 0.5 / (1 - BETA1**taken)
        for tensor in arrays:
            pointers = [array.ctypes.data for array in tensor]
            loop(*pointers, tensor[0].size, rate, library.MindsporeOffloadThreads())

    return step, lambda: arrays[-1][0]


def _check(name, result, weight, gradient):
    """Two steps of Adam with the same gradient, in float64."""
    weight, gradient = weight.astype(np.float64), gradient.astype(np.float64)
    m = v = 0.0
    for step in (1, 2):
        m = BETA1 * m + (1 - BETA1) * gradient
        v = BETA2 * v + (1 - BETA2) * gradient**2
        weight = weight - LEARNING_RATE * np.sqrt(1 - BETA2**step) / (1 - BETA1**step) * m / (np.sqrt(v) + EPS)
    error = np.abs(result - weight).max()
    if error > 1e-6:
        raise RuntimeError(f"'{name}' is wrong by {error} after two steps, so its time means nothing.")


def _print_memory(layers, rounds=3):
    params = layers * (4096 * 4096 + 4096)
    print(f"\n{layers} layers of Dense(4096), batch of 4, {params:,} float32 parameters, median of {rounds}")
    print(f"{'':36}{'peak resident MB':>17}{'optimizer to end of first step, s':>35}{'step, s':>9}")
    measured = {name: [] for name in MAIN}
    for _ in range(rounds):
        for name in MAIN:
            measured[name].append(measure_memory(name, layers))
    for name in MAIN:
        peak, first, step = map(statistics.median, zip(*measured[name]))
        print(f"{name:36}{peak:17,.0f}{first:35.1f}{step:9.2f}")


def measure_memory(name, layers):
    """In a new process: peak resident megabytes; seconds to build the optimizer, compile and run one step; a step."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_train, (name, layers))


def _train(name, layers):
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(SEED)
    net = nn.SequentialCell([nn.Dense(4096, 4096, activation="relu") for _ in range(layers)])
    data, label = ops.ones((4, 4096), ms.float32), ops.zeros((4, 4096), ms.float32)
    parameters = net.trainable_params()
    _warm_memory(16 * sum(parameter.size for parameter in parameters))
    seconds = []
    start = time.perf_counter()
    train = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), ALL[name].make(parameters))
    for _ in range(6):
        train(data, label).asnumpy()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return _peak_resident_mb(), seconds[0], statistics.median(seconds[1:])


def _warm_memory(size):
    """Another process touches as much memory as is going to be needed, and returns it.

    The host of a virtual machine may have taken the free memory of its guest, and gives it back page by page for
    seconds. That time is the host's and not the optimizer's.
    """
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({size}, numpy.uint8)"], check=True)


def _peak_resident_mb():
    """Of this process alone; getrusage would count its parent's memory too, from before the program was replaced."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def _cpu():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
