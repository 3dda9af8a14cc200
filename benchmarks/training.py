# SPDX-License-Identifier: Apache-2.0

"""Whole training steps: time, memory, compilation and the optimizer's share, by net and optimizer.

Every process builds a net and an optimizer, compiles the training step and times a block of steps. Processes of the
optimizers take turns, so that all of them meet the same machine, and their blocks are pooled.
"""

import statistics
import time

from benchmarks.process import call, progress, touch_memory

ALONE = "forward and backward"
RIVALS = (ALONE, "nn.Adam", "AdamOffload", "nn.AdamOffload")
CLIPPED = ("AdamOffload, clipping", "ops.clip_by_global_norm, nn.Adam")

# A description, the rivals, and about the bytes of the largest training.
NETS = {
    "dense": ("20 layers of Dense(4096), batch of 4", (*RIVALS, *CLIPPED), 12 * 10**9),
    "bert": ("BERT-base with an output layer of its own, 128 tokens", RIVALS, 4 * 10**9),
    "resnet": ("ResNet-50, 4 images of 112 x 112", RIVALS, 2 * 10**9),
}
WARM_UP = 1  # steps after the first one that are not timed


def needed_memory(net, options):
    return 0 if options["tiny"] else NETS[net][2]


def measure(net, options):
    """Returns the table of `net` in numbers. `options` are "steps" in all, "rounds" and "tiny"."""
    description, names, _ = NETS[net]
    rounds = options["rounds"]
    block = -(-options["steps"] // rounds)
    trained = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            progress(f"{net}, {name}: a new process trains, round {i + 1} of {rounds}")
            touch_memory(needed_memory(net, options) // 2)
            trained[name].append(call("benchmarks.training:train", net, name, block, options["tiny"]))
    return {
        "net": description + (", a tiny one of its kind" if options["tiny"] else ""),
        "params": trained[ALONE][0]["params"],
        "tensors": trained[ALONE][0]["tensors"],
        "steps": rounds * block,
        "rounds": rounds,
        "rivals": _rows(trained),
    }


def _rows(trained):
    seconds = {name: sorted(s for block in blocks for s in block["seconds"]) for name, blocks in trained.items()}
    alone, ours = (statistics.median(seconds[name]) for name in (ALONE, "AdamOffload"))
    rows = []
    for name, blocks in trained.items():
        low, median, high = statistics.quantiles(seconds[name], n=4, method="inclusive")
        row = {"name": name, "ms": median * 1e3, "ms_low": low * 1e3, "ms_high": high * 1e3}
        row |= {"relative": median / ours, "optimizer_share": 1 - alone / median}
        row |= {
            key: statistics.median(block[key] for block in blocks) for key in ("compile_s", "first_step_s", "peak_mb")
        }
        rows.append(row)
    return rows


def train(net, name, steps, tiny):
    """Trains in this process. Returns sizes, times in seconds, and the peak of resident memory in MB."""
    import mindspore as ms
    from mindspore import nn

    from benchmarks import nets
    from benchmarks.rivals import ALL, NoOptimizer

    ms.set_context(mode=ms.GRAPH_MODE)
    network, inputs = nets.build(net, tiny)
    parameters = network.trainable_params()
    seconds = [time.perf_counter()]
    optimizer = NoOptimizer(parameters) if name == ALONE else ALL[name].make(parameters)
    trained = nn.TrainOneStepCell(network, optimizer).set_train()
    trained.compile(*inputs)
    seconds.append(time.perf_counter())
    for _ in range(1 + WARM_UP + steps):
        trained(*inputs).asnumpy()
        seconds.append(time.perf_counter())
    compiled, first, *rest = (end - start for start, end in zip(seconds, seconds[1:]))
    return {
        "params": sum(parameter.size for parameter in parameters),
        "tensors": len(parameters),
        "compile_s": compiled,
        "first_step_s": first,
        "seconds": rest[WARM_UP:],
        "peak_mb": _peak_resident_mb(),
    }


def _peak_resident_mb():
    """Reads the peak of this process alone. getrusage counts the parent's memory before the program was replaced."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
