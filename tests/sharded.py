# SPDX-License-Identifier: Apache-2.0

"""Trains with sharded states on the ranks that msrun starts. `test_sharded.py` reads what this program writes.

A part is one of:

    compare    trains every scenario with sharded and with whole states, and compares all bits
    save       trains to the end, and once more to the middle, where it saves and kills itself
    resume     loads what this rank has saved, and trains to the end
    load       loads a merged file, and saves what this rank has of it
    refuse     makes optimizers that differ between the ranks, and loads the files of other ranks
    placement  reports what a step moves
    alone      makes an optimizer on a single rank
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init
from mindspore.ops import composite as C

from mindspore_offload import AdamOffload, AdamWOffload, placement_report
from mindspore_offload.states import buckets

STEPS = 50
BUCKET_BYTES = buckets.BUCKET_BYTES
SHAPES = [(130, 161), (7,), (128, 128), (), (3, 70, 100)]  # the first one has padding for any number of ranks

F32, F16, BF16 = ms.float32, ms.float16, ms.bfloat16
# The dtypes of the parameters, the class, and its arguments beside the learning rate.
SCENARIOS = {
    "float32": ([F32], AdamOffload, {}),
    "penalty, nesterov": ([F32], AdamOffload, {"weight_decay": 0.01, "use_nesterov": True, "loss_scale": 8.0}),
    "assign, decoupled": ([F32], AdamWOffload, {"weight_decay": 0.1, "writeback": "assign"}),
    "float16": ([F16], AdamOffload, {"weight_decay": 0.01}),
    "float16, clipped": ([F16], AdamWOffload, {"max_grad_norm": 0.05}),
    "bfloat16": ([BF16], AdamOffload, {"weight_decay": 0.01, "max_grad_norm": 0.05}),
    "bfloat16 moments": ([F32, BF16], AdamWOffload, {"moment_dtype": BF16, "weight_decay": 0.1}),
    "clipped, skipping": ([F32], AdamOffload, {"max_grad_norm": 0.05, "skip_nonfinite": True, "weight_decay": 0.01}),
    "small on the device": ([F32, F16], AdamOffload, {"min_offload_size": 100}),
    "mixed, a bucket each": ([F32, F16, BF16], AdamOffload, {"max_grad_norm": 0.05}),
}


class Net(nn.Cell):
    """Fits each weight to a multiple of an input, with operations that MindSpore has for every dtype."""

    def __init__(self, dtypes, seed=0):
        super().__init__()
        random = np.random.default_rng(seed)
        values = [np.asarray(random.standard_normal(shape), np.float32) for shape in SHAPES]
        self.weights = ParameterTuple(
            Parameter(Tensor(value).astype(dtypes[i % len(dtypes)]), name=f"weight{i}")
            for i, value in enumerate(values)
        )
        self.ramps = [
            Tensor(np.linspace(0.5, 1.5, value.size, dtype=np.float32).reshape(value.shape)) for value in values
        ]

    def construct(self, x):
        loss = 0.0
        for weight, ramp in zip(self.weights, self.ramps):
            loss += ((ops.cast(weight, ms.float32) - ramp * x) ** 2).mean()
        return loss


def _wide(gradient):
    return ops.cast(gradient, ms.float32)


class Step(nn.Cell):
    """A step of data parallelism. MindSpore's AllReduce on the CPU has no bfloat16, so gradients travel as float32."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.net, self.optimizer = net, optimizer
        self.backward = ops.value_and_grad(net, None, optimizer.parameters)
        self.average = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=get_group_size())
        self.map = C.Map()

    def construct(self, x, scale):
        loss, gradients = self.backward(x)
        gradients = self.average(self.map(_wide, gradients))
        return ops.depend(loss, self.optimizer(self.map(ops.partial(_scaled, scale), gradients)))


def _scaled(scale, gradient):
    return gradient * scale


class Holder(nn.Cell):
    """A training cell as users write it, or a cell around one. It prefixes the names of all parameters."""

    def __init__(self, net, optimizer=None):
        super().__init__()
        self.net = net
        if optimizer is not None:
            self.optimizer = optimizer


def new_training(name, shard_states):
    dtypes, optimizer, arguments = SCENARIOS[name]
    buckets.BUCKET_BYTES = 1 if "a bucket each" in name else BUCKET_BYTES
    net = Net(dtypes)
    groups = [
        {"params": net.weights[:2], "lr": 0.02},
        {"params": net.weights[2:], "weight_decay": 0.05},
        {"order_params": list(net.weights)},
    ]
    is_grouped = "weight_decay" in arguments
    made = optimizer(groups if is_grouped else list(net.weights), 0.01, shard_states=shard_states, **arguments)
    return Step(net, made), made


def train(step, steps):
    """Returns the losses. The inputs depend on the rank and on the number of the step."""
    losses = []
    for _ in range(steps):
        number = int(step.optimizer.global_step.asnumpy()[0])
        skipped = step.optimizer.skipped_steps
        taken = number + (0 if skipped is None else int(skipped.asnumpy()[0]))
        x = np.random.default_rng([get_rank(), taken]).standard_normal()
        scale = np.inf if skipped is not None and taken == 7 else 1.0
        losses.append(float(step(Tensor(x, ms.float32), Tensor(scale, ms.float32)).asnumpy()))
    return losses


def values(optimizer):
    """Returns the bits of weights and states by name. NumPy has no bfloat16; MindSpore's cast to float32 is exact."""
    wide = {each.name: each.astype(F32) for each in optimizer.get_parameters() if each.dtype == BF16}
    return {
        each.name: wide.get(each.name, each).asnumpy().copy()
        for each in optimizer.get_parameters()
        if each.name != "shard"
    }


def piece_of(whole, like):
    """Returns the piece of a whole state that this rank has, if it has one."""
    if whole.shape == like.shape:
        return whole
    padded = np.zeros(like.size * get_group_size(), whole.dtype)
    padded[: whole.size] = whole.ravel()
    return padded[get_rank() * like.size :][: like.size]


# On more than two ranks only these are compared, because each takes its time.
ON_MORE_RANKS = ["penalty, nesterov", "float16, clipped", "bfloat16", "clipped, skipping"]


def compare(_):
    """Returns for each scenario: names that differ, the number of sharded states, and the rounds of their elements."""
    found = {}
    for name in SCENARIOS if get_group_size() == 2 else ON_MORE_RANKS:
        trained = {}
        for shard_states in (False, True):
            step, optimizer = new_training(name, shard_states)
            trained[shard_states] = train(step, STEPS), values(optimizer)
        (losses, whole), (sharded_losses, sharded) = trained[False], trained[True]
        differing = [n for n in whole if piece_of(whole[n], sharded[n]).tobytes() != sharded[n].tobytes()]
        found[name] = {
            "differing": differing,
            "same losses": losses == sharded_losses,
            "same names": list(whole) == list(sharded),
            "pieces": [n for n in whole if whole[n].shape != sharded[n].shape],
            "moved": bool(np.isfinite(losses).all() and losses[-1] != losses[0]),
        }
    return found


def write_and_wait(folder, name, text):
    """Writes a file of this rank, and waits for those of the others."""
    file = folder / f"{name} {get_rank()}.json"
    file.with_suffix(".part").write_text(text)
    file.with_suffix(".part").rename(file)
    while len(list(folder.glob(f"{name} *.json"))) < get_group_size():
        time.sleep(0.1)


RESUMED = ("float32", "bfloat16 moments", "clipped, skipping")


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


def load(folder):
    found = {}
    for name in RESUMED:
        _, optimizer = new_training(name, True)
        whole = ms.load_checkpoint(str(folder / f"{name}.ckpt"))
        missing, unused = ms.load_param_into_net(optimizer, whole, strict_load=True)
        ms.save_checkpoint(optimizer, str(folder / f"{name} {get_rank()} of {get_group_size()}.ckpt"))
        found[name] = [missing, unused]
    return found


def refuse(folder):
    """Returns the messages of what is refused."""
    rank, ranks = get_rank(), get_group_size()
    makers = {
        "values": lambda: AdamOffload(Net([F32], seed=rank).trainable_params(), shard_states=True),
        "shapes": lambda: AdamOffload([Parameter(Tensor(np.ones(5 + rank, np.float32)), name="w")], shard_states=True),
        "number": lambda: AdamOffload(Net([F32]).trainable_params()[rank:], shard_states=True),
        "arguments": lambda: AdamOffload(Net([F32]).trainable_params(), beta1=0.5 + 0.1 * rank, shard_states=True),
    }
    makers["rates"] = lambda: AdamOffload(Net([F32]).trainable_params(), 0.1 + rank, shard_states=True)
    optimizer = AdamOffload(Net([F32]).trainable_params(), shard_states=True)
    file = folder / f"rank{rank}.ckpt"
    ms.save_checkpoint(optimizer, str(file))
    write_and_wait(folder, "saved", "")
    whole = AdamOffload(Net([F32]).trainable_params())
    other = str(folder / f"rank{(rank + 1) % ranks}.ckpt")
    makers["file of another rank"] = lambda: ms.load_param_into_net(optimizer, ms.load_checkpoint(other))
    makers["file of a rank in a whole optimizer"] = lambda: ms.load_param_into_net(whole, ms.load_checkpoint(str(file)))
    found = {}
    for name, make in makers.items():
        try:
            make()
            found[name] = "nothing"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def placement(_):
    """Returns the bytes that a step moves, and those of the parameters."""
    dtypes, optimizer, arguments = SCENARIOS["float16"]
    net = Net(dtypes)
    made = optimizer(net.trainable_params(), shard_states=True, writeback="assign", **arguments)
    report = placement_report(Step(net, made), Tensor(1, F32), Tensor(1, F32))
    return {
        "bytes": [report.to_host_bytes, report.to_device_bytes, report.interconnect_bytes],
        "pieces": sum(each.size for each, whole in zip(made.moment1, net.weights) if each.size != whole.size),
        "small": sum(each.size for each, whole in zip(made.moment1, net.weights) if each.size == whole.size),
        "table": str(report),
    }


def alone(_):
    optimizer = AdamOffload(Net([F32]).trainable_params(), shard_states=True)
    return {
        "shapes": [each.shape for each in optimizer.moment1],
        "names": [each.name for each in optimizer.get_parameters()],
    }


if __name__ == "__main__":
    part, given = sys.argv[1], Path(sys.argv[2])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    init()
    result = globals()[part](given)
    write_and_wait(given, part, json.dumps(result))  # if a rank ends badly, msrun kills those that have not ended
