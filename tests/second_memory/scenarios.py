# SPDX-License-Identifier: Apache-2.0

"""Short trainings whose results must be the same on the second memory and on the CPU device.

Each function runs in a child process, on the device that was set there, and returns arrays by name.
"""

import os

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from nets import SHAPES, MatrixNet, Residuals, TrainingCell

import mindspore_offload

FLOAT32 = ("float32",) * len(SHAPES)
FLOAT16 = ("float16",) * len(SHAPES)
MIXED = ("float16", "float32", "float16", "float32")


class FallingRate(nn.learning_rate_schedule.LearningRateSchedule):
    def construct(self, global_step):
        return 0.1 - global_step.astype(ms.float32) * 0.02


class GrowingDecay(nn.Cell):
    def construct(self, global_step):
        return global_step.astype(ms.float32) * 0.05 + 0.05


# Values of arguments that can't be sent to another process.
OBJECTS = {
    "falling": FallingRate,
    "growing": GrowingDecay,
    "listed": lambda: [0.1, 0.05, 0.2, 0.01, 0.02, 0.03],
    "dynamic": lambda: Parameter(Tensor([8.0], ms.float32), name="scale_value"),
    "bfloat16": lambda: ms.bfloat16,
}


def optimizer_for(parameters, cls="AdamOffload", groups=False, writeback=None, **settings):
    """An optimizer. On the CPU, it writes in place by default: another way to the same bits, so that a fault shows."""
    arguments = {"learning_rate": 0.02}
    for name, value in settings.items():
        arguments[name] = OBJECTS[value]() if value in OBJECTS else value
    if groups:
        first, *others = parameters
        parameters = [
            {"params": [first], "lr": 0.05, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.01},
        ]
    if writeback is None:
        writeback = "in_place" if ms.get_context("device_target") == "CPU" else "assign"
    return getattr(mindspore_offload, cls)(parameters, writeback=writeback, **arguments)


def inputs_of_step(step, dtypes, overflows=()):
    """The inputs of a step; in one that overflows, an element of the first gradient is infinite."""
    random = np.random.default_rng(step)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES.values()]
    if step in overflows:
        arrays[0][1, 2] = np.inf
    return tuple(Tensor(array).astype(dtype) for array, dtype in zip(arrays, map(_dtype, dtypes)))


def values(*cells):
    """The parameters of cells, by name. Arrays of the second memory's own, which the next step does not change."""
    found = {p.name: p.asnumpy() for cell in cells for p in cell.get_parameters()}
    # numpy has no bfloat16 of its own, which the other process would need.
    return {name: (v.view(np.uint16) if v.dtype.name == "bfloat16" else v).copy() for name, v in found.items()}


def new_training(dtypes, **settings):
    net = Residuals([_dtype(dtype) for dtype in dtypes])
    return TrainingCell(net, optimizer_for(net.trainable_params(), **settings))


def train(dtypes=FLOAT32, steps=4, overflows=(), **settings):
    """Some steps."""
    training = new_training(dtypes, **settings)
    for step in range(steps):
        training(*inputs_of_step(step, dtypes, overflows))
    return values(training)


def train_replaced():
    """The same with the optimizer that `AdamOffload` replaces, which refuses parameters without a dimension."""
    net = Residuals([ms.float32] * len(SHAPES))
    replaced = nn.AdamOffload([p for p in net.trainable_params() if p.shape], learning_rate=0.02)
    training = TrainingCell(net, replaced)
    for step in range(4):
        training(*inputs_of_step(step, FLOAT32))
    return values(replaced)


def copies_of_a_step(dtypes, **settings):
    """The copies of the third step, as pairs of direction and bytes; and those that the placement report expects."""
    training = new_training(dtypes, **settings)
    # Inputs travel too, and are not to be counted, so they are scalars.
    inputs = [Tensor(0.5, _dtype(dtype)) for dtype in dtypes]
    for _ in range(2):
        training(*inputs)
    read_log()
    training(*inputs)
    copies = read_log()
    report = mindspore_offload.placement_report(training, *inputs)
    return copies, {"to_host": report.to_host_bytes, "to_device": report.to_device_bytes}


def read_log(seen={}):  # noqa: B006
    """The copies and kernels since the last call, as pairs of their kind and bytes."""
    ms.runtime.synchronize()
    with open(os.environ["SECOND_MEMORY_LOG"]) as file:
        file.seek(seen.get("end", 0))
        lines = file.read().splitlines()
        seen["end"] = file.tell()
    return [(what, int(size)) for what, size, *_ in map(str.split, lines)]


def dynamic_loss_scale(dtypes=FLOAT32, **settings):
    """The scale is changed between steps, as a loss scaler does."""
    training = new_training(dtypes, loss_scale="dynamic", **settings)
    scale = next(p for p in training.optimizer.get_parameters() if p.name == "scale_value")
    for step, value in enumerate([8.0, 8.0, 4.0, 16.0]):
        ops.assign(scale, Tensor([value], ms.float32))
        training(*inputs_of_step(step, dtypes))
    return values(training)


def outside_write(way, written, dtypes=FLOAT32, **settings):
    """After two steps, a weight or a state is written by other means than the optimizer."""
    training = new_training(dtypes, **settings)
    parameter = next(p for p in training.get_parameters() if p.name == written)
    for step in range(4):
        if step == 2:
            value = np.abs(np.random.default_rng(9).standard_normal(parameter.shape)) / 16
            value = Tensor(np.asarray(value, np.float32)).astype(parameter.dtype)
            WRITES[way](parameter, value)
        training(*inputs_of_step(step, dtypes))
    return values(training)


def _by_another_graph(parameter, value):
    class Writer(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.parameter, self.assign = parameter, ops.Assign()

        def construct(self, value):
            return self.assign(self.parameter, value)

    Writer()(value)


def _load(parameter, value):
    ms.load_param_into_net(_Holder(parameter), {parameter.name: Parameter(value, name=parameter.name)})


class _Holder(nn.Cell):
    def __init__(self, parameter):
        super().__init__(auto_prefix=False)
        self.held = parameter


WRITES = {
    "set_data": lambda parameter, value: parameter.set_data(value),
    "assign_value": lambda parameter, value: parameter.assign_value(value),
    "ops.assign": ops.assign,
    "another-graph": _by_another_graph,
    "load_param_into_net": _load,
}


def special_values(**settings):
    """float16 weights that arithmetic would change: NaNs with payloads, -0.0, subnormals. The step is skipped."""
    bits = np.array([0x7D01, 0x7E01, 0xFE55, 0x8000, 0x0001, 0x83FF, 0x7C00, 0x3C01], np.uint16)
    weight = Parameter(Tensor(bits.view(np.float16)), name="weight")
    optimizer = optimizer_for([weight], skip_nonfinite=True, **settings)
    for _ in range(2):
        optimizer((Tensor(np.full(bits.shape, np.inf, np.float16)),))
    return {"before": bits, "after": weight.asnumpy().view(np.uint16)}


def resume(folder, dtypes=FLOAT32, **settings):
    """Two steps, a checkpoint, a new net and optimizer that load it, two more steps."""
    file = os.path.join(folder, f"resume_{os.getpid()}.ckpt")
    training = new_training(dtypes, **settings)
    for step in range(2):
        training(*inputs_of_step(step, dtypes))
    ms.save_checkpoint(training, file)
    training = new_training(dtypes, **settings)
    missing = ms.load_param_into_net(training, ms.load_checkpoint(file), strict_load=True)
    assert missing == ([], []), missing
    for step in range(2, 4):
        training(*inputs_of_step(step, dtypes))
    return values(training)


class TwoOptimizers(nn.Cell):
    """Each optimizer updates every other parameter."""

    def __init__(self, net, optimizers):
        super().__init__(auto_prefix=False)
        self.net, self.even, self.odd = net, *optimizers
        self.weights = ms.ParameterTuple(net.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True)

    def construct(self, *inputs):
        gradients = self.gradient(self.net, self.weights)(*inputs)
        even = self.even(gradients[0::2])
        odd = self.odd(gradients[1::2])
        return even[0] and odd[0]


def two_optimizers(dtypes=FLOAT32, **settings):
    net = Residuals([_dtype(dtype) for dtype in dtypes])
    parameters = net.trainable_params()
    optimizers = [optimizer_for(parameters[i::2], **settings) for i in range(2)]
    training = TwoOptimizers(net, optimizers)
    for step in range(4):
        training(*inputs_of_step(step, dtypes))
    result = values(net)
    for i, optimizer in enumerate(optimizers):
        result |= {f"{i}.{name}": value for name, value in values(optimizer).items()}
    return result


def model_train(**settings):
    """`Model.train` over a dataset. Matrix products round in another order, so results are only close."""
    net = MatrixNet()
    optimizer = optimizer_for(net.trainable_params(), **settings)
    random = np.random.default_rng(5)
    x = random.standard_normal((24, 6)).astype(np.float32)
    y = random.standard_normal((24, 2)).astype(np.float32)
    dataset = ms.dataset.NumpySlicesDataset((x, y), ["x", "y"], shuffle=False).batch(8)
    ms.Model(net, optimizer=optimizer).train(2, dataset, dataset_sink_mode=False)
    return values(net, optimizer)


def pynative(dtypes=FLOAT32, **settings):
    """The optimizer is called in PyNative mode, where its step is a graph of its own."""
    net = Residuals([_dtype(dtype) for dtype in dtypes])
    optimizer = optimizer_for(net.trainable_params(), **settings)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        for step in range(4):
            optimizer(tuple(x * x for x in inputs_of_step(step, dtypes)))
        return values(net, optimizer)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


class Failing(TrainingCell):
    """A training step that raises between gradients and update if `index` is not 0."""

    def __init__(self, net, optimizer):
        super().__init__(net, optimizer)
        self.gather = ops.Gather().set_device("CPU")
        self.table, self.axis = Tensor(np.zeros(1, np.float32)), 0

    def construct(self, index, *inputs):
        gradients = self.gradient(self.net, self.weights)(*inputs)
        return self.optimizer(ops.depend(gradients, self.gather(self.table, index, self.axis)))


def exception_in_a_step(**settings):
    """Weights and states before and after a step that raises while it runs. MindSpore then refuses to run it again."""
    net = Residuals([ms.float32] * len(SHAPES))
    training = Failing(net, optimizer_for(net.trainable_params(), **settings))
    good, bad = Tensor([0], ms.int32), Tensor([7], ms.int32)
    for step in range(2):
        training(good, *inputs_of_step(step, FLOAT32))
    before = values(training)
    try:
        training(bad, *inputs_of_step(2, FLOAT32))
    except (ValueError, RuntimeError, IndexError):
        return before, values(training)
    raise AssertionError("the step did not raise")


def _dtype(name):
    return getattr(ms, name)
