# SPDX-License-Identifier: Apache-2.0

"""Train a GPT of 4 million weights with `AdamWOffload`: float16 weights next to float32 ones.

The text is Python's own reference manual (see text.py), so nothing is downloaded. Both runs start from the same weights
and see the same batches in the same order. Each runs in its own process, so that its memory can be measured. Both have
the same optimizer: parameter groups, a learning rate that warms up and then falls, and clipping by the global norm. The
float16 run also needs a dynamic loss scale, which starts so large that gradients overflow and the first steps are
skipped. On an accelerator, --min-offload-size 4096 keeps norms and biases on the device. Prints the validation loss of
both runs, what is where, and a text written by the float16 net, and draws the curves into output/language_model.png.
Takes about seven minutes on two cores:

    pip install '.[examples]'
    python examples/language_model.py
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import arguments
import matplotlib
import mindspore as ms
import numpy as np
import text
from float16_step import MAX_NORM, Float16Step
from gpt import GPT, Loss
from matplotlib import pyplot
from mindspore import Tensor, amp, nn
from tqdm import tqdm

from mindspore_offload import AdamWOffload, estimate

FLOAT16, FLOAT32 = "float16", "float32"
LENGTH, BATCH = 64, 16
EPOCHS = 2
LEARNING_RATE, WARM_UP = 1e-3, 50  # its maximum; in steps
DECOUPLED_DECAY = 0.01
FIRST_SCALE = 2.0**21  # of the loss, too large on purpose
VALIDATIONS = 4
ALLOWED = 0.01  # above the validation loss of float32, relative
SMOOTHED_STEPS = 20


def parameter_groups(net, weight_decay):
    """Returns groups in which matrices decay, and norms and biases, which have one dimension, don't."""
    parameters = net.trainable_params()
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        {"order_params": parameters},
    ]


def learning_rates(steps):
    """Returns the rate of each step: linear warm-up, then cosine decay to a tenth."""
    warm_up = min(WARM_UP, steps // 4)
    falling = nn.cosine_decay_lr(LEARNING_RATE / 10, LEARNING_RATE, steps - warm_up, 1, steps - warm_up)
    return [LEARNING_RATE * (step + 1) / (warm_up + 1) for step in range(warm_up)] + falling


@dataclass
class Run:
    """The results of a training run."""

    losses: list = field(default_factory=list)
    validation: dict = field(default_factory=dict)  # step: loss
    skipped: int = 0
    peak: float = 0.0  # resident megabytes
    footprint: object = None  # what an accelerator and its host would hold
    sample: str = ""


class Monitor(ms.train.Callback):
    """Shows the progress, and fills in a `Run`."""

    def __init__(self, name, loss, validation_set, every):
        super().__init__()
        self.name, self.loss, self.validation_set, self.every = name, loss, validation_set, every
        self.run, self.norm = Run(), None

    def on_train_begin(self, run_context):
        # disable=None hides the bar if the output is a file, which would keep every redraw.
        total = run_context.original_args().batch_num
        self.bar = tqdm(total=total, desc=self.name, unit="step", leave=False, disable=None)

    def on_train_step_end(self, run_context):
        run, results = run_context.original_args(), run_context.original_args().net_outputs
        if isinstance(results, tuple):
            results, self.norm, scale = (float(result.asnumpy()) for result in results)
            if not np.isfinite(self.norm):
                tqdm.write(f"  step {run.cur_step_num:4}   skipped: a gradient overflowed with loss scale {scale:,.0f}")
        self.run.losses.append(float(results))
        self.bar.update()
        if run.cur_step_num % self.every == 0 or run.cur_step_num == run.batch_num:
            self.validate(run.cur_step_num)

    def validate(self, step):
        losses = [float(self.loss(*batch).asnumpy()) for batch in self.validation_set.create_tuple_iterator()]
        self.run.validation[step] = float(np.mean(losses))
        training = np.mean(self.run.losses[-self.every :])
        norm = f"   gradient norm {self.norm:.3f}" if self.norm is not None else ""
        figures = f"training loss {training:.4f}   validation loss {self.run.validation[step]:.4f}"
        tqdm.write(f"  step {step:4}   {figures}{norm}")

    def on_train_end(self, run_context):
        self.bar.close()
        self.run.peak = peak_resident_mb()


def peak_resident_mb():
    """Returns the peak resident memory of this process."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def train(name, options):
    """Trains the model of that name and returns its `Run`."""
    arguments.set_up(options)
    print(f"\n{name}", flush=True)
    ms.set_seed(options.seed)  # decides the initial weights
    gpt = GPT(options.layers, options.width, 6, LENGTH, ms.float16 if name == FLOAT16 else ms.float32)
    training, validation = text.load(LENGTH)
    steps = arguments.steps(options, epoch=len(training[0]) // BATCH)
    loss, groups, rates = Loss(gpt), parameter_groups(gpt, DECOUPLED_DECAY), learning_rates(steps)
    settings = {"max_grad_norm": MAX_NORM, "min_offload_size": options.min_offload_size}
    if name == FLOAT16:
        scaler = amp.DynamicLossScaler(FIRST_SCALE, scale_factor=2, scale_window=200)
        optimizer = AdamWOffload(groups, rates, loss_scale=scaler.scale_value, skip_nonfinite=True, **settings)
        step = Float16Step(loss, optimizer, scaler)
    else:
        step = nn.TrainOneStepCell(loss, AdamWOffload(groups, rates, **settings))
    validation_set = text.in_order(validation, BATCH, len(validation[0]) // BATCH, options.seed)
    monitor = Monitor(name, loss, validation_set, every=-(-steps // VALIDATIONS))
    training_set = text.in_order(training, BATCH, steps, options.seed)
    ms.Model(step).train(1, training_set, callbacks=monitor, dataset_sink_mode=False)
    monitor.run.footprint, *_ = estimate(gpt.trainable_params(), **settings)
    if name == FLOAT16:
        monitor.run.skipped = int(optimizer.skipped_steps.asnumpy()[0])
        monitor.run.sample = write(gpt, validation[0][0], options.characters, options.seed)
    return monitor.run


def write(gpt, prompt, count, seed, temperature=0.7):
    """Continues `prompt` by `count` bytes, each drawn from the probabilities that the net predicts."""
    random = np.random.default_rng(seed)
    tokens = list(prompt)
    for _ in range(count):
        scores = gpt(Tensor([tokens[-LENGTH:]], ms.int32))[0, -1].asnumpy() / temperature
        # The argmax of scores plus Gumbel noise is a draw from their softmax.
        tokens.append(int(np.argmax(scores + random.gumbel(size=len(scores)))))
    return bytes(tokens[LENGTH:]).decode(errors="replace")


def print_tables(runs):
    print(f"{'':8}{'validation loss':>16}{'skipped steps':>15}{'peak resident MB':>18}")
    for name, run in runs.items():
        print(f"{name:8}{list(run.validation.values())[-1]:16.4f}{run.skipped:15}{run.peak:18,.0f}")
    # The optimizer clips, so all gradients wait on the host for their norm.
    print(f"\nOn an accelerator, MB{'on the device':>28}{'on the host':>31}")
    print(f"{'':8}{'weights':>14}{'gradients':>12}{'states':>10}{'moments, masters':>20}{'gradients':>12}")
    for name, run in runs.items():
        place = run.footprint
        device = (place.device_weights, place.device_gradients, place.device_states)
        weights, gradients, states, host, waiting = (n / 2**20 for n in (*device, place.host_states, place.host_others))
        print(f"{name:8}{weights:14.1f}{gradients:12.1f}{states:10.1f}{host:20.1f}{waiting:12.1f}")


def draw(runs, path):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    looks = {FLOAT32: {"color": "#f7c873", "linewidth": 6}, FLOAT16: {"color": "black", "linewidth": 1.6}}
    for name, look in looks.items():
        losses = np.convolve(runs[name].losses, np.full(SMOOTHED_STEPS, 1 / SMOOTHED_STEPS), mode="valid")
        left.plot(np.arange(len(losses)) + SMOOTHED_STEPS, losses, label=name, **look)
        right.plot(*zip(*runs[name].validation.items()), label=name, marker="o", **look)
    left.set(title="Training loss", xlabel="step", ylabel=f"cross-entropy, nats a byte, mean of {SMOOTHED_STEPS} steps")
    right.set(title="Validation loss", xlabel="step", ylabel="cross-entropy, nats a byte")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A GPT on Python's reference manual: same initial weights, same batches", fontsize=15)
    figure.savefig(path, dpi=150)
    print(f"The curves are in {path}.")


def main():
    parser = arguments.parser(__doc__, EPOCHS)
    arguments.add_steps(parser)
    parser.add_argument("--layers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=384, help="a multiple of 6 (default: %(default)s)")
    parser.add_argument("--min-offload-size", type=int, default=0, help="elements of the smallest parameter to offload")
    parser.add_argument("--characters", type=int, default=400, help="of text to write (default: %(default)s)")
    options = arguments.parse(parser)

    matplotlib.use("Agg")  # no display is needed
    runs = {}
    for name in (FLOAT16, FLOAT32):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            runs[name] = process.submit(train, name, options).result()
    print(f"\n{runs[FLOAT16].sample}\n")
    print_tables(runs)
    float16, float32 = (list(runs[name].validation.values())[-1] for name in (FLOAT16, FLOAT32))
    print(f"\nThe validation loss in float16 differs from that in float32 by {float16 / float32 - 1:+.2%}.")
    draw(runs, options.output / "language_model.png")
    if float16 > float32 * (1 + ALLOWED) and not options.steps:
        sys.exit(f"That is more than {ALLOWED:.0%}.")


if __name__ == "__main__":
    main()
