"""Peak memory and start-up of a training, each in a new process."""

import json
import statistics
import subprocess
import time

from mindspore_offload import machine
from mindspore_offload.commands import child
from mindspore_offload.commands.errors import CommandError
from mindspore_offload.commands.progress import progress

WIDTH = 4096
WARM_BYTES = 16  # a parameter: weight, gradient and moments


def params_of(layers):
    return layers * (WIDTH * WIDTH + WIDTH)


def check_memory(layers):
    """Refuses what would not fit, before anything is allocated."""
    needed, available = 1.3 * WARM_BYTES * params_of(layers) + 1e9, machine.available_memory()
    if needed > available:
        raise CommandError(
            f"{layers} layers need about {needed / 1e9:.1f} GB, but only {available / 1e9:.1f} GB are available; "
            f"give fewer --layers, or 0 for none"
        )


def measure(names, layers, rounds=3):
    """Of each name in `rivals.ALL`, the medians of what `train` gives."""
    measured = {name: [] for name in names}
    for i in range(rounds):
        for name in names:
            progress(f"{name}: a new process trains {layers} layers, round {i + 1} of {rounds}")
            _warm_memory(WARM_BYTES * params_of(layers))
            measured[name].append(_in_new_process(name, layers))
    return {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}


def _in_new_process(name, layers):
    code = f"import json, sys; from {__name__} import train; print(json.dumps(train(sys.argv[1], int(sys.argv[2]))))"
    run = subprocess.run(child.command(code, name, layers), stdout=subprocess.PIPE, text=True, start_new_session=True)
    if run.returncode:
        raise CommandError(f"the training with {name} failed with status {run.returncode}; its message is above")
    return json.loads(run.stdout.splitlines()[-1])


def _warm_memory(size):
    """Another process touches as much memory as is going to be needed, and returns it.

    The host of a virtual machine may have taken the free memory of its guest, and gives it back page by page for
    seconds. That time is the host's and not the optimizer's.
    """
    code = "import numpy, sys; numpy.ones(int(sys.argv[1]), numpy.uint8)"
    subprocess.run(child.command(code, size), check=True, start_new_session=True)


def train(name, layers):
    """Peak resident MB; seconds to build the optimizer, compile and run one step; seconds of a step."""
    import mindspore as ms
    from mindspore import nn, ops

    from mindspore_offload.commands.bench.rivals import ALL

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    net = nn.SequentialCell([nn.Dense(WIDTH, WIDTH, activation="relu") for _ in range(layers)])
    data, label = ops.ones((4, WIDTH), ms.float32), ops.zeros((4, WIDTH), ms.float32)
    seconds = []
    start = time.perf_counter()
    trained = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), ALL[name].make(net.trainable_params()))
    for _ in range(6):
        trained(data, label).asnumpy()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return _peak_resident_mb(), seconds[0], statistics.median(seconds[1:])


def _peak_resident_mb():
    """Of this process alone; getrusage would count its parent's memory too, from before the program was replaced."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
