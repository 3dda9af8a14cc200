# SPDX-License-Identifier: Apache-2.0

"""Train the net of digits.py with float16 weights, and compare its test accuracy with that of float32 weights.

The float32 masters of the weights are in host memory, so steps too small for a float16 weight are not lost. The program
tries both writebacks and both host operations, each with several seeds. It compares means, because single seeds differ
by 2 of the 360 test digits, which is half a percentage point. Takes about two minutes on two cores:

    pip install '.[examples]'
    python examples/digits_float16.py
"""

import statistics
import sys

import arguments
import mindspore as ms
from digits import EPOCHS, LEARNING_RATE, LeNet5, load_batches
from mindspore import nn
from tqdm import tqdm

from mindspore_offload import AdamOffload

LOSS_SCALE = 1024.0  # lifts small gradients out of the subnormal numbers of float16
ALLOWED = 0.005  # half a percentage point

RUNS = {
    "float32": (ms.float32, {}),
    "float16, native, in_place": (ms.float16, {"host_kernel": "native", "writeback": "in_place"}),
    "float16, native, assign": (ms.float16, {"host_kernel": "native", "writeback": "assign"}),
    "float16, stock, in_place": (ms.float16, {"host_kernel": "stock", "writeback": "in_place"}),
    "float16, stock, assign": (ms.float16, {"host_kernel": "stock", "writeback": "assign"}),
}


class InFloat16(nn.Cell):
    """A net with float16 weights and arithmetic, and float32 inputs and outputs."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        for parameter in net.get_parameters():
            parameter.set_dtype(ms.float16)

    def construct(self, inputs):
        return self.net(inputs.astype(ms.float16)).astype(ms.float32)


class Progress(ms.train.Callback):
    """Moves a progress bar on after each epoch."""

    def __init__(self, bar):
        super().__init__()
        self.bar = bar

    def on_train_epoch_end(self, run_context):
        self.bar.update()


def train(dtype, settings, epochs, seed, bar):
    """Returns the test accuracy after training."""
    ms.set_seed(seed)
    train_set, test_set = load_batches(seed)
    net = LeNet5() if dtype == ms.float32 else InFloat16(LeNet5())
    steps = train_set.get_dataset_size()
    rates = nn.cosine_decay_lr(0.0, LEARNING_RATE, epochs * steps, steps, epochs)
    optimizer = AdamOffload(net.trainable_params(), learning_rate=rates, loss_scale=LOSS_SCALE, **settings)
    scale = ms.amp.FixedLossScaleManager(LOSS_SCALE, drop_overflow_update=False)
    model = ms.Model(net, nn.CrossEntropyLoss(), optimizer, metrics={"accuracy"}, loss_scale_manager=scale)
    model.train(epochs, train_set, callbacks=Progress(bar), dataset_sink_mode=False)
    return model.eval(test_set, dataset_sink_mode=False)["accuracy"]


def main():
    parser = arguments.parser(__doc__, EPOCHS)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind, from --seed on (default: %(default)s)")
    options = arguments.parse(parser)
    seeds = range(options.seed, options.seed + options.seeds)
    means = {}
    print(f"{'':30}{'test accuracy, mean':>20}{'of each seed':>30}")
    # disable=None hides the bar if the output is a file, which would keep every redraw.
    with tqdm(total=len(RUNS) * len(seeds) * options.epochs, unit="epoch", leave=False, disable=None) as bar:
        for name, (dtype, settings) in RUNS.items():
            bar.set_description(name)
            accuracies = [train(dtype, settings, options.epochs, seed, bar) for seed in seeds]
            means[name] = statistics.mean(accuracies)
            of_each = "  ".join(f"{accuracy:.2%}" for accuracy in accuracies)
            tqdm.write(f"{name:30}{means[name]:20.2%}{of_each:>30}")
    worst = min(means, key=means.get)
    if means["float32"] - means[worst] > ALLOWED:
        sys.exit(f"{worst} is more than {ALLOWED:.1%} below float32.")


if __name__ == "__main__":
    main()
