# SPDX-License-Identifier: Apache-2.0

"""Trains three parameters in parts. As a program, it continues a test's training in a new process."""

import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor
from nets import parameters_of
from test_contract import LEARNING_RATES, NAMES, OPTIMIZERS, SHAPES, WEIGHT_DECAYS, new_parameters

FIRST, THEN = 2, 2
FORMS = [(rate, "cell" if rate == "own-schedule" else "float") for rate in LEARNING_RATES]


def new_optimizer(host_kernel, rate="float", decay="float"):
    return OPTIMIZERS[host_kernel](
        new_parameters(), learning_rate=LEARNING_RATES[rate][0](), weight_decay=WEIGHT_DECAYS[decay][0]()
    )


def train(optimizer, steps):
    """Takes `steps` steps and returns all values. The gradients depend on `global_step` and on the weights."""
    for _ in range(steps):
        random = np.random.default_rng(int(optimizer.global_step.asnumpy()[0]))
        noise = {name: random.standard_normal(shape) for name, shape in zip(NAMES, SHAPES)}
        optimizer(tuple(Tensor((noise[p.name] + p.asnumpy()).astype(np.float32)) for p in optimizer.parameters))
    return parameters_of(optimizer)


def load(optimizer, path):
    """Loads strictly. By default, MindSpore also matches names by their end and would load moment1.w into w."""
    missing, unused = ms.load_param_into_net(optimizer, ms.load_checkpoint(str(path)), strict_load=True)
    assert not missing
    return unused


def continue_all(folder, host_kernel):
    for rate, decay in FORMS:
        optimizer = new_optimizer(host_kernel, rate, decay)
        load(optimizer, folder / f"{rate}.ckpt")
        np.savez(folder / f"{rate}.npz", **train(optimizer, THEN))


def run_until_killed(folder, host_kernel):
    """Trains and saves after every step, for a minute at most."""
    optimizer = new_optimizer(host_kernel)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        train(optimizer, 1)
        ms.save_checkpoint(optimizer, str(folder / f"step{int(optimizer.global_step.asnumpy()[0]):05}.ckpt"))


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    {"continue": continue_all, "run": run_until_killed}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
