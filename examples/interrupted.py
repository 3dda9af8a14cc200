# SPDX-License-Identifier: Apache-2.0

"""Kill a training run with SIGKILL at a random step, and resume it: it ends with the bits of an uninterrupted run.

A small GPT learns Python's reference manual (see text.py) in a separate process. The process saves a checkpoint every
few steps with MindSpore's `ModelCheckpoint`, and when it starts, it resumes from the newest one in its folder. One such
process runs to its end. Another is killed and started again. The program then compares all weights and states, and the
loss of each step, and draws both curves into output/interrupted.png. Takes about a minute on two cores:

    pip install '.[examples]'
    python examples/interrupted.py

With `--folder`, the program only trains. Kill it and start it again by hand.
"""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import arguments
import matplotlib
import mindspore as ms
import text
from gpt import GPT, Loss
from matplotlib import pyplot
from mindspore import nn

from mindspore_offload import AdamOffload

LENGTH, BATCH = 32, 16
EPOCHS, STEPS = 1, 150
SAVED_STEPS = 10  # between checkpoints
LOSSES = "losses.txt"  # a line for each step: its number and its loss, with all bits


class WriteLosses(ms.train.Callback):
    """Appends the loss of each step to a file, from step `first` on."""

    def __init__(self, path, first):
        super().__init__()
        self.path, self.first = path, first

    def on_train_step_end(self, run_context):
        run = run_context.original_args()
        with self.path.open("a", encoding="utf-8") as file:
            print(self.first + run.cur_step_num, float(run.net_outputs.asnumpy()).hex(), file=file)


def newest_checkpoint(folder):
    """Returns the newest checkpoint, or None. It is whole: a checkpoint has another name while it is written."""
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)


def load(cell, path):
    """Loads strictly. By default, MindSpore also matches names by their end: moment1.weight could fill weight."""
    missing, _ = ms.load_param_into_net(cell, ms.load_checkpoint(str(path)), strict_load=True)
    if missing:
        sys.exit(f"{path} lacks {', '.join(missing)}, so the training can't resume exactly.")


def train(options, folder):
    """Trains to the last step, starting from the newest checkpoint in `folder` if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    ms.set_seed(options.seed)
    training, _ = text.load(LENGTH)
    steps = arguments.steps(options, epoch=len(training[0]) // BATCH)
    gpt = GPT(layers=2, width=96, heads=6, length=LENGTH)
    optimizer = AdamOffload(gpt.trainable_params(), nn.cosine_decay_lr(1e-4, 2e-3, steps, 1, steps))
    step = nn.TrainOneStepCell(Loss(gpt), optimizer)
    saved = newest_checkpoint(folder)
    if saved:
        load(step, saved)
    first = int(optimizer.global_step.asnumpy()[0])  # the steps taken before the checkpoint
    config = ms.train.CheckpointConfig(save_checkpoint_steps=SAVED_STEPS, keep_checkpoint_max=2)
    ms.Model(step).train(
        1,
        text.in_order(training, BATCH, steps, options.seed, first),
        callbacks=[
            WriteLosses(folder / LOSSES, first),
            ms.train.ModelCheckpoint(prefix=f"from_step_{first}", directory=str(folder), config=config),
        ],
        dataset_sink_mode=False,
    )


def start(options, folder):
    """Starts a training run in a new process."""
    command = [sys.executable, __file__, f"--folder={folder}", f"--epochs={options.epochs}", f"--steps={options.steps}"]
    return subprocess.Popen([*command, f"--seed={options.seed}", f"--device-target={options.device_target}"])


def run_to_the_end(options, folder):
    if start(options, folder).wait() != 0:
        sys.exit(f"The training in {folder} failed.")


def run_until_killed(options, folder, step, delay):
    """Kills the training `delay` seconds after `step`: between two steps, in a step, or while saving."""
    process = start(options, folder)
    while len(read_losses(folder)) < step and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    if process.wait() >= 0:
        sys.exit(f"The training in {folder} ended before it could be killed.")


def read_losses(folder):
    """Returns pairs of a step and its loss. Steps that were repeated after a resume occur twice."""
    path = folder / LOSSES
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(int(step), float.fromhex(loss)) for step, loss in map(str.split, lines)]


def differences(unbroken, resumed):
    """Returns the names of the parameters and states that differ in any bit."""
    one, other = (ms.load_checkpoint(str(newest_checkpoint(folder))) for folder in (unbroken, resumed))
    if one.keys() != other.keys():
        return sorted(one.keys() ^ other.keys())
    return [name for name in one if one[name].asnumpy().tobytes() != other[name].asnumpy().tobytes()]


def draw(unbroken, before, after, path):
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    axes.plot(*zip(*unbroken), color="#f7c873", linewidth=7, label="never stopped")
    axes.plot(*zip(*before), color="#c0392b", linewidth=1.6, label=f"killed after step {before[-1][0]}")
    axes.plot(*zip(*after), color="black", linewidth=1.6, linestyle=(0, (5, 3)), label=f"resumed at step {after[0][0]}")
    axes.set(title="A training that was killed and resumed", xlabel="step", ylabel="training loss, nats a byte")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(f"The curves are in {path}.")


def main():
    parser = arguments.parser(__doc__, EPOCHS)
    arguments.add_steps(parser, STEPS)
    parser.add_argument("--folder", type=Path, help="train only, in this folder")
    options = arguments.parse(parser)
    if options.folder:
        train(options, options.folder)
        return

    unbroken, broken = (options.output / "interrupted" / name for name in ("unbroken", "broken"))
    shutil.rmtree(unbroken.parent, ignore_errors=True)
    run_to_the_end(options, unbroken)
    expected = read_losses(unbroken)
    print(f"One training took its {len(expected)} steps.")

    chance = random.Random(options.seed)
    run_until_killed(options, broken, chance.randint(SAVED_STEPS, len(expected) - SAVED_STEPS), chance.uniform(0, 0.05))
    before = read_losses(broken)
    print(f"The other one was killed after step {before[-1][0]}.")
    run_to_the_end(options, broken)
    after = read_losses(broken)[len(before) :]
    print(f"Started again, it went on at step {after[0][0]}, from its newest checkpoint.")

    matplotlib.use("Agg")  # no display is needed
    draw(expected, before, after, options.output / "interrupted.png")
    different = differences(unbroken, broken)
    if different or set(before + after) != set(expected):
        sys.exit(f"The two runs differ: {', '.join(different) or 'in their losses'}.")
    print("Both ended with the same bits in all weights and states, and had the same loss, to the bit, in every step.")


if __name__ == "__main__":
    main()
