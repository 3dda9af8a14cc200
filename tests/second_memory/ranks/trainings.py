# SPDX-License-Identifier: Apache-2.0

"""A training of one rank in semi-automatic or automatic parallel, or the same in one process without ranks."""

import contextlib
import ctypes
import mmap
import re
import tempfile
from pathlib import Path

import cells
import mindspore as ms
import numpy as np
from mindspore import Tensor, context, nn
from mindspore.nn.utils import no_init_parameters
from mindspore.parallel.auto_parallel import AutoParallel
from training_cells import AVERAGING, KINDS, MicroBatches, TwoOptimizers

from mindspore_offload import AdamOffload, AdamWOffload, placement_report

CLASSES = {"AdamOffload": AdamOffload, "AdamWOffload": AdamWOffload, "nn.Adam": nn.Adam}
MICRO_BATCHES = {"pipeline": nn.PipelineCell, "accumulation": nn.GradAccumulationCell}
RANDOM = np.random.default_rng(1)
STEPS, SAVED = 5, 3  # all steps, and those before a checkpoint
BATCHES = [[(RANDOM.standard_normal((8, width)) / 2).astype(np.float32) for width in (32, 16)] for _ in range(STEPS)]
BATCHES = [[np.concatenate([each, each[::-1, ::-1]]) for each in batch] for batch in BATCHES]  # four micro batches


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
    if case.get("measured"):
        return _memory_of_states(training, batches[0])
    if case.get("is_compiled_only"):
        return {"updated": _updated_by(cell, batches[0])}
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
    losses = _losses(ranks, case, training, cell, batches[SAVED if resume else 0 : case.get("steps")])
    found = {"losses": losses, "start": start, "arrays": arrays_of(training), "layouts": layouts_of(cell)}
    if case.get("report"):
        found["report"] = placement_report(training, *batches[0])
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
    weights, arguments = net.trainable_params(), case.get("optimizer", {})
    if case.get("two_optimizers"):
        optimizers = [new_optimizer(part, **arguments) for part in (weights[:1], weights[1:])]
        return TwoOptimizers(net, optimizers).set_train()
    optimizer = new_optimizer(weights, **arguments)
    micro, count, kind = case.get("micro"), case.get("count", 2), case.get("cell")
    if ranks > 1:
        net = MICRO_BATCHES[micro](net, count) if micro else net
        return KINDS[kind or ("micro-batches" if micro else "ordinary")](net, optimizer).set_train()
    net = MicroBatches(net, count) if micro else net
    return nn.TrainOneStepCell(net, optimizer, sens=1 / count if micro and kind in AVERAGING else None).set_train()


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
    rows = cells.ROWS * (case.get("count", 2) if case.get("micro") else 1)
    return [[Tensor(each[:rows]) for each in batch] for batch in BATCHES]


def _losses(ranks, case, training, cell, batches):
    """Runs the steps, and returns the losses. On all stages but the last one they are 0.

    A step with an overflow is run on ranks only, and its loss is left out.
    """
    losses = []
    for i, batch in enumerate(batches):
        overflows = i == case.get("overflow")
        if overflows and ranks == 1:
            continue
        loss = cell(*_overflowing(training, batch) if overflows else batch)
        if overflows and hasattr(training, "overflow"):
            training.overflow.set_data(Tensor([0.0], ms.float32))
        if not overflows:
            losses.append(float(np.sum((loss[0] if isinstance(loss, tuple) else loss).asnumpy())))
    return losses


def _overflowing(training, batch):
    """Returns a batch whose gradients are infinite, or lets a cell find an overflow that asks the device for it."""
    if hasattr(training, "overflow"):
        training.overflow.set_data(Tensor([1.0], ms.float32))
        return batch
    return [Tensor(np.full(each.shape, np.inf, np.float32)) for each in batch]


def _memory_of_states(training, batch):
    """Returns the bytes of the states, and how many are resident: when the step is compiled, and after it has run."""
    training.compile(*batch)
    states = [*training.optimizer.moment1, *training.optimizer.moment2]
    found = {"compiled": sum(_resident_bytes(state.memory) for state in states)}
    training(*batch).asnumpy()  # waits for the step
    found["trained"] = sum(_resident_bytes(state.memory) for state in states)
    return {**found, "bytes": sum(state.nbytes for state in states)}


def _resident_bytes(array):
    start = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    pages = (ctypes.c_ubyte * (-(-(array.ctypes.data + array.nbytes - start) // mmap.PAGESIZE)))()
    assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(pages) * mmap.PAGESIZE), pages) == 0
    return mmap.PAGESIZE * sum(each & 1 for each in pages)


def _updated_by(cell, batch):
    """Compiles a step, and returns the parameters that its optimizer updates, from the graph after MindSpore's passes.

    Then MindSpore's GPU runtime refuses the graph, see `cases.COMPILED`.
    """
    with tempfile.TemporaryDirectory() as folder:
        ms.set_context(save_graphs=1, save_graphs_path=folder)
        try:
            cell.compile(*batch)
        except RuntimeError as error:
            if "must be a Primitive ValueNode" not in str(error):
                raise
        finally:
            ms.set_context(save_graphs=0)
        (graph,) = Path(folder).glob("**/*_validate_*.ir")
        text = graph.read_text()
    kernels = len(re.findall(r"= (?:Custom|Adam)\(", text))
    written = re.findall(r"(?:PrimFunc_AssignAdd|= Adam)\(%para\d+_(parts\.[\w.]+),", text)
    assert len(written) == kernels, text
    return sorted(written)


def _folder(case):
    """Returns the folder of this rank's files."""
    return Path(case["resume"], f"rank_{ms.communication.get_rank()}").absolute()


def strategy_file(folder):
    """Returns the file of a rank's strategies, beside its folder: MindSpore reads all files in there as checkpoints."""
    return folder.parent.parent / f"strategy_of_{folder.name}.ckpt"


def _save(ranks, case):
    """Trains the first steps, and returns the name of the checkpoint that it saves."""
    training, cell = _new_cells(ranks, case)
    _losses(ranks, case, training, cell, _batches(case)[:SAVED])
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
