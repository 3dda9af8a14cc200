# SPDX-License-Identifier: Apache-2.0

"""Measures an optimizer with whole and with sharded states, on the ranks that msrun starts.

    msrun --worker_num=2 --local_worker_num=2 --join=True --log_dir=output/ranks benchmarks/ranks.py

Rank 0 prints into output/ranks/worker_0.log: the resident memory of the states of a rank, the processor time that Adam
needs on a rank, the time of a step, and that of its AllGathers alone. The gradients are in the graph, and equal on all
ranks, so nothing reduces them.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mindspore_offload import AdamOffload, host
from mindspore_offload.abi import COLUMNS
from mindspore_offload.diagnosis.steps import Step

SHAPE = (1024, 1024)
WARM_UP = 2


class Gathers(nn.Cell):
    """Gathers the pieces of a step, a bucket at a time, and nothing else."""

    def __init__(self, sizes):
        super().__init__()
        self.gather = ops.AllGather()
        self.pieces = ParameterTuple(
            Parameter(Tensor(np.ones(size, np.float32)), name=f"piece{i}") for i, size in enumerate(sizes)
        )

    def construct(self):
        return host.map_(self.gather, self.pieces)


class Launches(nn.Cell):
    """Launches Adam on the host, and nothing else: what the device does with the results is left out."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.updates = optimizer._step.updates
        columns = {**dict.fromkeys(COLUMNS, 0.0), "learning_rate": 1e-3, "clip": 1, "gradient_scale": 1, "eps": 1e-8}
        self.coefficients = Tensor([[columns[name] for name in COLUMNS]], ms.float32)
        self.gradients = ParameterTuple(
            Parameter(Tensor(np.ones(moment.shape, np.float32)), name=f"g{i}")
            for i, moment in enumerate(optimizer.moment1)
        )

    def construct(self):
        return host.map_(ops.partial(_launch, self.coefficients, self.gradients), self.updates)


def _launch(coefficients, gradients, update):
    return update.launch(coefficients, (), gradients[update.start : update.stop])


def resident_bytes():
    """Returns the memory of this process that is its own."""
    with open("/proc/self/smaps_rollup", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:")) * 1024


def measure(step, steps):
    """Returns the medians of a step's seconds and of its seconds of processor time, of all threads of this process."""
    wall, processor = [], []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter(), time.process_time()
        _wait_for(step())
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return statistics.median(wall[WARM_UP:]), statistics.median(processor[WARM_UP:])


def _wait_for(results):
    """Reads a result of each operation that was launched."""
    for result in results if isinstance(results, (tuple, list)) else [results]:
        if isinstance(result, Tensor):
            result.asnumpy()


def training(tensors, shard_states):
    weights, gradients = (
        [Parameter(Tensor(np.ones(SHAPE, np.float32)), name=f"{name}{i}") for i in range(tensors)]
        for name in ("weight", "gradient")
    )
    optimizer = AdamOffload(weights, writeback="assign", shard_states=shard_states)
    return Step(optimizer, gradients), optimizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=32, help="tensors of 2^20 parameters (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=9, help="timed steps (default: %(default)s)")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    init()
    params = options.tensors * SHAPE[0] * SHAPE[1]
    rows, gather = [], 0.0
    for name, shard_states in (("whole", False), ("sharded", True)):
        step, optimizer = training(options.tensors, shard_states)
        before = resident_bytes()
        for state in (*optimizer.moment1, *optimizer.moment2):
            state.memory.fill(0)  # now each of its pages is resident
        resident = resident_bytes() - before
        _, update = measure(Launches(optimizer), options.steps)
        wall, _ = measure(step, options.steps)
        if shard_states:
            sizes = [sum(each.moment1[i].size for i in range(len(each.moment1))) for each in optimizer._step.updates]
            gather, _ = measure(Gathers(sizes), options.steps)
        rows.append((name, resident / params, update * 1e3, wall * 1e3, gather * 1e3))
    if get_rank() == 0:
        print(f"{params:,} float32 parameters, {get_group_size()} ranks, {options.steps} steps, medians")
        print(f"{'states':10}{'bytes a parameter':>20}{'Adam, CPU ms':>15}{'step, ms':>12}{'AllGather, ms':>16}")
        for name, resident, update, wall, gathered in rows:
            print(f"{name:10}{resident:20.2f}{update:15.1f}{wall:12.1f}{gathered:16.1f}")


if __name__ == "__main__":
    main()
