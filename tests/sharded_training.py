# SPDX-License-Identifier: Apache-2.0

"""The trainings of the programs of the ranks, with sharded or with whole states."""

import time

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.communication import get_group_size, get_rank
from mindspore.ops import composite as C

from mindspore_offload import AdamOffload, AdamWOffload
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


def new_optimizer(name, shard_states, **changed):
    """Returns the optimizer of a scenario, but for these arguments, and its net."""
    dtypes, optimizer, arguments = SCENARIOS[name]
    buckets.BUCKET_BYTES = 1 if "a bucket each" in name else BUCKET_BYTES
    net = Net(dtypes)
    groups = [
        {"params": net.weights[:2], "lr": 0.02},
        {"params": net.weights[2:], "weight_decay": 0.05},
        {"order_params": list(net.weights)},
    ]
    is_grouped = "weight_decay" in arguments
    arguments = {**arguments, **changed, "shard_states": shard_states}
    return optimizer(groups if is_grouped else list(net.weights), 0.01, **arguments), net


def new_training(name, shard_states):
    optimizer, net = new_optimizer(name, shard_states)
    return Step(net, optimizer), optimizer


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


def write_and_wait(folder, name, text):
    """Writes a file of this rank, and waits for those of the others."""
    file = folder / f"{name} {get_rank()}.json"
    file.with_suffix(".part").write_text(text)
    file.with_suffix(".part").rename(file)
    while len(list(folder.glob(f"{name} *.json"))) < get_group_size():
        time.sleep(0.1)
