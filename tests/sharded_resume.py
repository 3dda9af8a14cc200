# SPDX-License-Identifier: Apache-2.0

"""Saves, resumes and loads trainings with sharded states, on the ranks that msrun starts."""

import os
import signal

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.communication import get_group_size, get_rank
from sharded_training import STEPS, new_optimizer, new_training, train, values, write_and_wait

RESUMED = ("float32", "bfloat16 moments", "uint8 moments", "clipped, skipping")


class Holder(nn.Cell):
    """A training cell as users write it, or a cell around one. It prefixes the names of all parameters."""

    def __init__(self, net, optimizer=None):
        super().__init__()
        self.net = net
        if optimizer is not None:
            self.optimizer = optimizer


def save(folder):
    for name in RESUMED:
        step, optimizer = new_training(name, True)
        np.savez(folder / f"{name} {get_rank()}.npz", losses=train(step, STEPS), **values(optimizer))
    for name in RESUMED:
        step, optimizer = new_training(name, True)
        train(step, STEPS // 2)
        ms.save_checkpoint(optimizer, str(folder / f"{name} {get_rank()} of {get_group_size()}.ckpt"))
        held = Holder(Holder(step.net, optimizer))
        ms.save_checkpoint(held, str(folder / f"held {name} {get_rank()} of {get_group_size()}.ckpt"))
    write_and_wait(folder, "saved", "")
    os.kill(os.getpid(), signal.SIGKILL)


def resume(folder):
    found = {}
    for name in RESUMED:
        step, optimizer = new_training(name, True)
        file = folder / f"{name} {get_rank()} of {get_group_size()}.ckpt"
        missing, _ = ms.load_param_into_net(optimizer, ms.load_checkpoint(str(file)), strict_load=True)
        losses = train(step, STEPS - STEPS // 2)
        expected = dict(np.load(folder / f"{name} {get_rank()}.npz"))
        continued = values(optimizer)
        found[name] = {
            "missing": missing,
            "same losses": losses == expected.pop("losses").tolist()[STEPS // 2 :],
            "differing": [n for n in expected if expected[n].tobytes() != continued[n].tobytes()],
        }
    return found


# Other moments than those of the optimizer that saved: the name of its scenario, and the dtype of the moments.
CONVERTED = {"float32 to uint8": ("float32", ms.uint8), "uint8 to float32": ("uint8 moments", ms.float32)}


def load(folder):
    found = {}
    kept = {name: (name, {}) for name in RESUMED}
    others = {name: (source, {"moment_dtype": dtype}) for name, (source, dtype) in CONVERTED.items()}
    for name, (source, arguments) in {**kept, **others}.items():
        optimizer, _ = new_optimizer(source, True, **arguments)
        whole = ms.load_checkpoint(str(folder / f"{source}.ckpt"))
        missing, unused = ms.load_param_into_net(optimizer, whole, strict_load=True)
        ms.save_checkpoint(optimizer, str(folder / f"{name} {get_rank()} of {get_group_size()}.ckpt"))
        found[name] = [missing, unused]
    return found
