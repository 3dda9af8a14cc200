# SPDX-License-Identifier: Apache-2.0

"""A training of one rank in semi-automatic or automatic parallel, or the same in one process without ranks."""

import contextlib
from pathlib import Path

import cells
import mindspore as ms
import numpy as np
from mindspore import Tensor, context, nn
from mindspore.nn.utils import no_init_parameters
from mindspore.nn.wrap.cell_wrapper import _TrainGradAccuStepCell
from mindspore.parallel.auto_parallel import AutoParallel

from mindspore_offload import AdamOffload, AdamWOffload

CLASSES = {"AdamOffload": AdamOffload, "AdamWOffload": AdamWOffload, "nn.Adam": nn.Adam}
MICRO_BATCHES = {"pipeline": nn.PipelineCell, "accumulation": nn.GradAccumulationCell}
RANDOM = np.random.default_rng(1)
STEPS, SAVED = 5, 3  # all steps, and those before a checkpoint
BATCHES = [[(RANDOM.standard_normal((8, width)) / 2).astype(np.float32) for width in (32, 16)] for _ in range(STEPS)]


def train(ranks, case):
    """Trains and returns the losses, and what the training cell held before and afterwards.

    Args:
        ranks (int): The number of ranks. 1: this process alone, without a parallel mode.
        case (dict): What to train, see `cases`.
    """
    resume = case.get("resume") if ranks > 1 else None
    checkpoint = _save(1 if resume == "whole" else ranks, case) if resume else None
    training, cell = _new_cells(ranks, case)
    batches = _batches(case)
    start = arrays_of(training)
    if resume == "whole":
        _load(training, ms.load_checkpoint(checkpoint))
    if resume == "slices":
        cell.compile(*batches[0])
        _load(training, ms.load_checkpoint(checkpoint))
    if case.get("delayed") and ranks > 1:
        cell.compile(*batches[0])
        _load_delayed(training)
        start = arrays_of(training)
    losses = [_loss(cell, batch) for batch in batches[SAVED if resume else 0 : case.get("steps")]]
    found = {"losses": losses, "start": start, "arrays": arrays_of(training), "layouts": layouts_of(cell)}
    return {**found, "checkpoint": checkpoint}


def _new_cells(ranks, case):
    """Sets the parallel mode, and returns the training cell, and the cell to call: that one, or its `AutoParallel`."""
    context.reset_auto_parallel_context()
    stages, interface = case.get("stages", 1), case.get("interface", "context")
    if ranks > 1 and interface == "context":
        places = {"device_num": ranks, "global_rank": ms.communication.get_rank(), "pipeline_stages": stages}
        settings = {"parallel_mode": "semi_auto_parallel", "dataset_strategy": "full_batch", "gradients_mean": False}
        context.set_auto_parallel_context(**{**settings, **places, **case.get("context", {})})
        if case.get("resume") == "slices":
            context.set_auto_parallel_context(strategy_ckpt_config={"save_file": str(strategy_file(_folder(case)))})
    delayed = ranks > 1 and case.get("delayed", False)
    with no_init_parameters() if delayed else contextlib.nullcontext():
        training = _training_cell(ranks, case, {"delayed": True} if delayed else case.get("options", {}))
    if ranks == 1 or interface == "context":
        return training, training
    cell = AutoParallel(training, parallel_mode="semi_auto")
    cell.dataset_strategy("full_batch")
    if stages > 1:
        cell.pipeline(stages=stages)
    return training, cell


def _training_cell(ranks, case, options):
    net = getattr(cells, case["net"])(ranks, **options)
    if case.get("recompute"):
        net.recompute()
    weights, arguments, micro = net.trainable_params(), case.get("optimizer", {}), case.get("micro")
    if case.get("two_optimizers"):
        optimizers = [new_optimizer(part, **arguments) for part in (weights[:1], weights[1:])]
        return cells.TwoOptimizers(net, optimizers).set_train()
    optimizer = new_optimizer(weights, **arguments)
    if micro and ranks > 1:
        return _TrainGradAccuStepCell(MICRO_BATCHES[micro](net, 2), optimizer).set_train()
    if micro:
        return nn.TrainOneStepCell(cells.MicroBatches(net), optimizer, sens=0.5).set_train()
    return nn.TrainOneStepCell(net, optimizer).set_train()


def new_optimizer(parameters, cls="AdamOffload", groups=False, moment_dtype=None, learning_rate=0.01, **arguments):
    """Returns an optimizer of a class. `groups`: every second parameter has its own rate and decay.

    A `loss_scale` of "parameter" is a Parameter. The gradients are not scaled: it only makes them smaller.
    """
    if groups:
        parameters = [{"params": parameters[::2], "weight_decay": 0.01, "lr": 0.003}, {"params": parameters[1::2]}]
    if moment_dtype:
        arguments["moment_dtype"] = getattr(ms, moment_dtype)
    if arguments.get("loss_scale") == "parameter":
        arguments["loss_scale"] = ms.Parameter(Tensor(8.0, ms.float32), "scale")
    return CLASSES[cls](parameters, learning_rate, **arguments)


def _batches(case):
    return [[Tensor(each if case.get("micro") else each[: cells.ROWS]) for each in batch] for batch in BATCHES]


def _loss(cell, batch):
    """Runs a step. On all stages but the last one the loss is 0."""
    return float(np.sum(cell(*batch).asnumpy()))


def _folder(case):
    """Returns the folder of this rank's files."""
    return Path(case["resume"], f"rank_{ms.communication.get_rank()}").absolute()


def strategy_file(folder):
    """Returns the file of a rank's strategies, beside its folder: MindSpore reads all files in there as checkpoints."""
    return folder.parent.parent / f"strategy_of_{folder.name}.ckpt"


def _save(ranks, case):
    """Trains the first steps, and returns the name of the checkpoint that it saves."""
    training, cell = _new_cells(ranks, case)
    for batch in _batches(case)[:SAVED]:
        _loss(cell, batch)
    file = _folder(case) / "saved.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    ms.save_checkpoint(training, str(file), integrated_save=False)
    return str(file)


def _load(cell, loaded):
    assert ms.load_param_into_net(cell, loaded, strict_load=True) == ([], [])


def _load_delayed(cell):
    """Gives parameters that have only shapes their values, as loading a checkpoint of slices does."""
    layouts, rank = layouts_of(cell), ms.communication.get_rank()
    wholes = {each.name: each.asnumpy() for each in cells.Layers(1).trainable_params()}
    slices = {name: Tensor(slice_of(whole, layouts[name], rank)) for name, whole in wholes.items()}
    ms.load_param_into_net(cell, {name: ms.Parameter(each, name) for name, each in slices.items()})


def layouts_of(cell):
    """Returns the device matrix, the tensor map and the group of an optimizer's cut, by name."""
    return {name: (layout[0], layout[1], layout[5]) for name, layout in (cell.parameter_layout_dict or {}).items()}


def slice_of(whole, layout, rank):
    """Returns a rank's slice of a tensor. Of its place in the device matrix, the last index changes fastest."""
    devices, tensor_map, optimizer_group = layout
    place = np.unravel_index(rank, devices)
    for axis, dimension in enumerate(tensor_map):
        if dimension != -1:  # counted from the last one
            index = len(devices) - 1 - dimension
            whole = np.split(whole, devices[index], axis)[place[index]]
    if optimizer_group:  # cut once more, by the ranks of the data-parallel dimension, which is the first
        whole = np.split(whole, devices[0])[place[0]]
    return whole


def arrays_of(cell):
    """Returns the values of a cell's parameters. Delayed parameters have none."""
    return {
        each.name: _as_float32(each.asnumpy()) if each.dtype == ms.bfloat16 else each.asnumpy().copy()
        for each in cell.get_parameters()
        if not each.has_init and not each.name.startswith("accu_grads")
    }


def _as_float32(bfloat16):
    """Widens bfloat16, which numpy does not have, and MindSpore has no Cast for on GPU."""
    return (bfloat16.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
