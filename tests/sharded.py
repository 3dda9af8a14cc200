# SPDX-License-Identifier: Apache-2.0

"""Trains with sharded states on the ranks that msrun starts. `test_sharded.py` reads what this program writes.

A part is one of:

    compare    trains every scenario with sharded and with whole states, and compares all bits
    save       trains to the end, and once more to the middle, where it saves and kills itself
    resume     loads what this rank has saved, and trains to the end
    load       loads a merged file, and saves what this rank has of it
    check      finds out what is refused, how states can be saved and loaded, and what a step moves
"""

import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank, init
from mindspore.nn.learning_rate_schedule import LearningRateSchedule
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
    "uint8 moments": ([F32, BF16], AdamWOffload, {"moment_dtype": ms.uint8, "weight_decay": 0.1}),
    "clipped, skipping": ([F32], AdamOffload, {"max_grad_norm": 0.05, "skip_nonfinite": True, "weight_decay": 0.01}),
    "some on the device": ([F32, F16], AdamOffload, {"offload_ratio": 0.7}),
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


def compare(folder):
    """Returns for each scenario the names that differ and those of the pieces. Saves the checkpoints of all ranks."""
    found = {}
    for name in SCENARIOS if get_group_size() == 2 else ON_MORE_RANKS:
        trained = {}
        for shard_states in (False, True):
            step, optimizer = new_training(name, shard_states)
            trained[shard_states] = train(step, STEPS), values(optimizer)
            file = f"{name} {get_rank()} of {get_group_size()}.ckpt" if shard_states else f"{name} whole.ckpt"
            if shard_states or get_rank() == 0:
                ms.save_checkpoint(optimizer, str(folder / file))
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


RESUMED = ("float32", "bfloat16 moments", "uint8 moments", "clipped, skipping")


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


class Halving(LearningRateSchedule):
    """A schedule, or a decay, of the user's own. `value` may be a number, a Tensor, a list, an array or a schedule."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def construct(self, step):
        return 0.5 * (self.value(step) if isinstance(self.value, nn.Cell) else self.value[0])


class Quartering(Halving):
    pass


def differing_arguments(f):
    """Returns arguments by the name that the error must show, and a comment. `f` is 1 on rank 0, and 2 on rank 1."""
    rates, decays, weights = "learning_rate", "weight_decay", Net([F32]).weights
    own = Halving if f == 1 else Quartering
    schedules = {
        "exponential": lambda: nn.ExponentialDecayLR(0.1 * f, 0.9, 4),
        "its decay rate": lambda: nn.ExponentialDecayLR(0.1, 0.4 * f, 4),
        "its decay steps": lambda: nn.ExponentialDecayLR(0.1, 0.9, 4 * f),
        "its staircase": lambda: nn.ExponentialDecayLR(0.1, 0.9, 4, is_stair=f == 1),
        "cosine": lambda: nn.CosineDecayLR(0.01, 0.1 * f, 4),
        "polynomial": lambda: nn.PolynomialDecayLR(0.1, 0.01, 4, 0.5 * f),
        "warm-up": lambda: nn.WarmUpLR(0.1, 4 * f),
        "own, a Tensor": lambda: Halving(Tensor([0.1 * f], F32)),
        "own, a Parameter": lambda: Halving(Parameter(Tensor([0.1 * f], F32), name="value")),
        "own, a list": lambda: Halving([0.1 * f]),
        "own, an array": lambda: Halving(np.array([0.1 * f])),
        "own, other objects, too": lambda: Halving([0.1 * f, ops.Add()]),
        "own, a schedule": lambda: Halving(nn.WarmUpLR(0.1, 4 * f)),
        "another class": lambda: own([0.1]),
    }

    def grouped(**second):
        first = {"params": weights[:2], "lr": 0.1, "weight_decay": 0.1}
        return [first, {"params": weights[2:], "lr": 0.2, "weight_decay": 0.2, **second}]

    arguments = {
        (rates, "number"): {rates: 0.1 * f},
        (rates, "list"): {rates: [0.1, 0.1 * f]},
        (rates, "longer list"): {rates: [0.1] * (4 + f)},
        (rates, "Tensor"): {rates: Tensor(0.1 * f, F32)},
        (rates, "Tensor of steps"): {rates: Tensor([0.1, 0.1 * f], F32)},
        (rates, "of a group"): {"params": grouped(lr=0.1 * f)},
        (rates, "list of a group"): {"params": grouped(lr=[0.1, 0.1 * f])},
        (rates, "Tensor of a group"): {"params": grouped(lr=Tensor(0.1 * f, F32))},
        (rates, "schedule or number"): {rates: 0.1 if f == 1 else nn.WarmUpLR(0.1, 4)},
        (decays, "number"): {decays: 0.1 * f},
        (decays, "of a group"): {"params": grouped(weight_decay=0.1 * f)},
        ("loss_scale", "number"): {"loss_scale": 8.0 * f},
        ("loss_scale", "Parameter"): {"loss_scale": Parameter(Tensor([8.0 * f], F32), name="scale")},
        ("beta1", ""): {"beta1": 0.4 * f},
        ("beta2", ""): {"beta2": 0.4 * f},
        ("eps", ""): {"eps": 1e-8 * f},
        ("use_locking", ""): {"use_locking": f == 1},
        ("use_nesterov", ""): {"use_nesterov": f == 1},
        ("max_grad_norm", ""): {"max_grad_norm": float(f)},
        ("max_grad_norm", "or none"): {"max_grad_norm": None if f == 1 else 1.0},
        ("skip_nonfinite", ""): {"skip_nonfinite": f == 1},
        ("min_offload_size", ""): {"min_offload_size": 100 * f},
        ("offload_ratio", ""): {"offload_ratio": 0.4 * f},
        ("moment_dtype", ""): {"moment_dtype": F32 if f == 1 else BF16},
    }
    for kind, make in schedules.items():
        arguments[rates, kind] = {rates: make()}
        arguments[rates, f"{kind}, of a group"] = {"params": grouped(lr=make())}
        arguments[decays, kind] = {decays: make()}
        arguments[decays, f"{kind}, of a group"] = {"params": grouped(weight_decay=make())}
    split = 1 + f
    arguments["params", "other groups"] = {
        "params": [{"params": weights[:split], "lr": 0.1}, {"params": weights[split:], "lr": 0.2}]
    }
    return {name: {"params": list(weights), **given} for name, given in arguments.items()}


def error_of(make):
    """Returns the error of a call, or "accepted"."""
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def check(folder):
    step, optimizer = new_training("float32", True)
    return {
        "differing": differing_optimizers(),
        "differing arguments": [
            [argument, kind, error_of(lambda given=given: AdamOffload(**given, shard_states=True))]
            for (argument, kind), given in differing_arguments(1 + get_rank()).items()
        ],
        "saved": ways_of_saving(folder, step, optimizer),
        "files": wrong_files(folder, step, optimizer),
        "not reduced": error_of(not_reduced),
        "broadcast": broadcast(folder),
        "placement": placement(),
    }


def differing_optimizers():
    """Returns the messages of optimizers that differ between the ranks in something else than an argument."""
    rank = get_rank()
    makers = {
        "values": lambda: AdamOffload(Net([F32], seed=rank).trainable_params(), shard_states=True),
        "shapes": lambda: AdamOffload([Parameter(Tensor(np.ones(5 + rank, np.float32)), name="w")], shard_states=True),
        "dtypes": lambda: AdamOffload(Net([F16 if rank else F32]).trainable_params(), shard_states=True),
        "names": lambda: AdamOffload([Parameter(Tensor([1.0]), name=f"w{rank}")], shard_states=True),
        "number": lambda: AdamOffload(Net([F32]).trainable_params()[rank:], shard_states=True),
        "class": lambda: [AdamOffload, AdamWOffload][rank](Net([F32]).trainable_params(), shard_states=True),
    }
    return {name: error_of(make) for name, make in makers.items()}


# The arguments of `save_checkpoint`, and a function that reads the file.
WAYS_OF_SAVING = {
    "plain": ({}, ms.load_checkpoint),
    "read in the background": ({}, lambda file: ms.load_checkpoint_async(file).result()),
    "with a checksum": ({"crc_check": True}, lambda file: ms.load_checkpoint(file, crc_check=True)),
    "not integrated": ({"integrated_save": False}, ms.load_checkpoint),
    "in a thread": ({"async_save": "thread"}, ms.load_checkpoint),
    "in a process": ({"async_save": "process"}, ms.load_checkpoint),
    "safetensors": ({"format": "safetensors"}, lambda file: ms.load_checkpoint(file, format="safetensors")),
}


def ways_of_saving(folder, step, optimizer):
    """Returns for each way the names that are missing and those that differ after loading. The training goes on."""
    found = {}
    for way, (options, read) in WAYS_OF_SAVING.items():
        train(step, 1)
        expected = values(optimizer)
        file = folder / f"{way} {get_rank()}.{options.get('format', 'ckpt')}"
        ms.save_checkpoint(optimizer, str(file), **options)
        train(step, 1)
        while not file.exists():
            time.sleep(0.1)
        _, loaded = new_training("float32", True)
        missing, _ = ms.load_param_into_net(loaded, read(str(file)), strict_load=True)
        found[way] = [missing, [n for n, v in values(loaded).items() if v.tobytes() != expected[n].tobytes()]]
    return found


def wrong_files(folder, step, optimizer):
    """Returns the messages of files that a rank must not load, and what a refused step has changed."""
    rank, ranks = get_rank(), get_group_size()
    for number in range(ranks):
        train(step, 1)
        ms.save_checkpoint(optimizer, str(folder / f"rank{rank} step{number}.ckpt"))
    write_and_wait(folder, "saved", "")

    def load(into, of_rank, number):
        return ms.load_param_into_net(into, ms.load_checkpoint(str(folder / f"rank{of_rank} step{number}.ckpt")))

    whole = AdamOffload(Net([F32]).trainable_params())
    found = {
        "of another rank": error_of(lambda: load(optimizer, (rank + 1) % ranks, 0)),
        "of a rank, in a whole optimizer": error_of(lambda: load(whole, rank, 0)),
    }
    load(optimizer, rank, rank)
    before = values(optimizer)
    found["of another step"] = error_of(lambda: train(step, 1))
    found["changed"] = [n for n, value in values(optimizer).items() if value.tobytes() != before[n].tobytes()]
    return found


def not_reduced():
    """Trains on different data, in a cell that reduces gradients in a data-parallel mode only, which is not set."""
    net = Net([F32])
    nn.TrainOneStepCell(net, AdamOffload(net.trainable_params(), shard_states=True))(Tensor(get_rank(), F32))


def broadcast(folder):
    """Trains from weights that differ between the ranks, which MindSpore broadcasts, and saves without redundancy."""
    settings = {"parallel_mode": "data_parallel", "gradients_mean": True, "device_num": get_group_size()}
    ms.set_auto_parallel_context(parameter_broadcast=True, **settings)
    net = Net([F32], seed=get_rank())
    optimizer = AdamOffload(net.trainable_params(), shard_states=True)
    training = nn.TrainOneStepCell(net, optimizer)
    config = ms.train.CheckpointConfig(save_checkpoint_steps=1, remove_redundancy=True)
    saving = ms.train.ModelCheckpoint("redundant", str(folder / f"redundant{get_rank()}"), config)
    data = ms.dataset.GeneratorDataset([(np.float32(get_rank()),)] * 3, ["x"])
    error = error_of(lambda: ms.Model(training).train(1, data, callbacks=[saving], dataset_sink_mode=False))
    ms.reset_auto_parallel_context()
    checksums = [zlib.crc32(weight.asnumpy().tobytes()) for weight in optimizer.parameters]
    files = [file.name for file in folder.glob("redundant*/*.ckpt")]
    return {"error": error, "steps": int(optimizer.global_step.asnumpy()[0]), "weights": checksums, "files": files}


def placement():
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


if __name__ == "__main__":
    part, given = sys.argv[1], Path(sys.argv[2])
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    init()
    result = globals()[part](given)
    write_and_wait(given, part, json.dumps(result))  # if a rank ends badly, msrun kills those that have not ended
