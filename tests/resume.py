# SPDX-License-Identifier: Apache-2.0

"""Trains small optimizers in parts. As a program, it continues a test's training in a new process."""

import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from nets import parameters_of
from schedules import LEARNING_RATES, WEIGHT_DECAYS
from small_optimizers import MAKERS, new_parameters

THEN = 2


def with_all_forms(host_kernel):
    """Returns an optimizer with a group for each form of a learning rate. Some have decays that are Cells."""
    groups = [
        {
            "params": [Parameter(Tensor(np.linspace(1, 2, 5).astype(np.float32)), name=f"{rate}.weight")],
            "lr": form(),
            "weight_decay": WEIGHT_DECAYS["cell" if rate == "own-schedule" else "float"][0](),
        }
        for rate, (form, _) in LEARNING_RATES.items()
    ]
    return MAKERS[host_kernel](groups)


def without_groups(host_kernel, rate="list"):
    return MAKERS[host_kernel](new_parameters(), LEARNING_RATES[rate][0](), weight_decay=WEIGHT_DECAYS["cell"][0]())


def train(optimizer, steps):
    """Takes `steps` steps and returns all values. The gradients depend on `global_step` and on the weights."""
    for _ in range(steps):
        random = np.random.default_rng(int(optimizer.global_step.asnumpy()[0]))
        optimizer(tuple(Tensor((random.standard_normal(p.shape) + p.asnumpy()), p.dtype) for p in optimizer.parameters))
    return parameters_of(optimizer)


def load(optimizer, path):
    """Loads strictly. By default, MindSpore also matches names by their end and would load moment1.w into w."""
    missing, unused = ms.load_param_into_net(optimizer, ms.load_checkpoint(str(path)), strict_load=True)
    assert not missing
    return unused


RESUMED = {"groups": with_all_forms, "list": without_groups}


def continue_all(folder, host_kernel):
    for name, make in RESUMED.items():
        optimizer = make(host_kernel)
        load(optimizer, folder / f"{name}.ckpt")
        np.savez(folder / f"{name}.npz", **train(optimizer, THEN))


def run_until_killed(folder, host_kernel):
    """Trains and saves after every step, for a minute at most."""
    optimizer = without_groups(host_kernel, "float")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        train(optimizer, 1)
        ms.save_checkpoint(optimizer, str(folder / f"step{int(optimizer.global_step.asnumpy()[0]):05}.ckpt"))


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    {"continue": continue_all, "run": run_until_killed}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
