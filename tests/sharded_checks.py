# SPDX-License-Identifier: Apache-2.0

"""Finds out what is refused, how states can be saved and loaded, and what a step moves, on the ranks of msrun."""

import time
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore.communication import get_group_size, get_rank
from sharded_arguments import differing_arguments
from sharded_training import F16, F32, SCENARIOS, Net, Step, new_training, train, values, write_and_wait

from mindspore_offload import AdamOffload, AdamWOffload, placement_report


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


def error_of(make):
    """Returns the error of a call, or "accepted"."""
    try:
        make()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"
