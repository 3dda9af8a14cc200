# SPDX-License-Identifier: Apache-2.0

"""The optimizers of MindSpore and of this package that are measured."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.ops import composite as C
from mindspore.ops import functional as F
from oracle import AdamW, NoBiasCorrection, Oracle

from benchmarks.bare_loop import BETA1, BETA2, EPS, LEARNING_RATE
from mindspore_offload import AdamOffload, AdamWOffload
from mindspore_offload.diagnosis.steps import Step
from mindspore_offload.formats import moment_format


@dataclass(frozen=True)
class Rival:
    """An optimizer of MindSpore's kind, and its arguments.

    Attributes:
        optimizer: Makes the optimizer from a list of parameters and `settings`.
        settings: Arguments of the optimizer.
        dtype: The dtype of the parameters and gradients.
        answer: The oracle that this optimizer agrees with. Its weight decay and loss scale are taken from `settings`.
        in_graph: The step is a graph that holds the gradients, as in a training step. Otherwise the optimizer is
            called from Python, and MindSpore takes the gradients as arguments.
    """

    optimizer: Callable
    settings: dict = field(default_factory=dict)
    dtype: str = "float32"
    answer: type[Oracle] = Oracle
    in_graph: bool = True

    has_master: ClassVar[bool] = True

    @property
    def moment_dtype(self):
        return moment_format(self.settings.get("moment_dtype", ms.float32)).name

    @property
    def gradients(self):
        """How the rival holds its gradients."""
        return "Parameters" if self.in_graph else "Tensors"

    def make(self, parameters):
        return self.optimizer(parameters, **self.settings)

    def start(self, data):
        """Returns a function that runs one step, and one that returns the last parameter."""
        dtype = getattr(ms, self.dtype)
        parameters = [Parameter(Tensor(w).astype(dtype), name=f"weight{i}") for i, w in enumerate(data.weights)]
        optimizer = self.make(parameters)
        if self.in_graph:
            step = Step(optimizer, data.parameters(self.dtype))
        else:
            gradients = data.tensors(self.dtype)

            def step():
                optimizer(gradients)

        return step, lambda: parameters[-1].astype(ms.float32).asnumpy()

    def oracle(self, weight):
        """Returns the oracle of a weight."""
        given = {name: self.settings[name] for name in ("weight_decay", "loss_scale") if name in self.settings}
        return self.answer([weight], **given)


class FusedCastAdamWeightDecay(nn.Cell):
    """MindSpore's host operation of this name, one for each parameter and nothing else: no bias correction."""

    def __init__(self, parameters):
        super().__init__()
        self.weights = ParameterTuple(parameters)
        self.moment1, self.moment2 = (
            ParameterTuple(
                Parameter(initializer("zeros", p.shape, ms.float32), name=f"{m}.{p.name}") for p in parameters
            )
            for m in ("m", "v")
        )
        self.adam = ops.FusedCastAdamWeightDecay().set_device("CPU")
        self.constants = tuple(Tensor(value, ms.float32) for value in (LEARNING_RATE, BETA1, BETA2, EPS, 0.0, 1.0))
        self.map_ = C.Map()

    def construct(self, gradients):
        update = F.partial(_fused_update, self.adam, *self.constants)
        return F.depend(True, self.map_(update, self.weights, self.moment1, self.moment2, gradients))


def _fused_update(adam, rate, beta1, beta2, eps, decay, norm, weight, moment1, moment2, gradient):
    return adam(weight, moment1, moment2, rate, beta1, beta2, eps, decay, gradient, norm)


class Clipped(nn.Cell):
    """`nn.Adam` after MindSpore's own clipping, in one graph."""

    def __init__(self, parameters, max_grad_norm):
        super().__init__()
        self.optimizer, self.max_grad_norm = nn.Adam(parameters), max_grad_norm
        self.parameters = self.optimizer.parameters

    def construct(self, gradients):
        return self.optimizer(ops.clip_by_global_norm(gradients, self.max_grad_norm))


class NoOptimizer(nn.Cell):
    """Returns the gradients, so that a training step runs forward and backward, and updates nothing."""

    def __init__(self, parameters):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)

    def construct(self, gradients):
        return gradients


# The bound is so large that the answer is plain Adam's. Measuring the norm and multiplying cost the same.
CLIP = {"max_grad_norm": 1e9}
NATIVE, STOCK = {"host_kernel": "native"}, {"host_kernel": "stock"}
BFLOAT16_MOMENTS = {**NATIVE, "moment_dtype": ms.bfloat16}
UINT8_MOMENTS = {**NATIVE, "moment_dtype": ms.uint8}
ALL = {
    "AdamOffload": Rival(AdamOffload, NATIVE),
    "AdamOffload, decay and loss scale": Rival(AdamOffload, {**NATIVE, "weight_decay": 1e-4, "loss_scale": 1024.0}),
    "AdamOffload, clipping": Rival(AdamOffload, {**NATIVE, **CLIP}),
    "AdamWOffload": Rival(AdamWOffload, {**NATIVE, "weight_decay": 0.01}, answer=AdamW),
    "AdamOffload, assign": Rival(AdamOffload, {**NATIVE, "writeback": "assign"}),
    "AdamOffload, stock": Rival(AdamOffload, STOCK),
    "AdamOffload, float16": Rival(AdamOffload, NATIVE, "float16"),
    "AdamOffload, bfloat16": Rival(AdamOffload, NATIVE, "bfloat16"),
    "AdamOffload, float16, stock": Rival(AdamOffload, STOCK, "float16"),
    "AdamOffload, bfloat16 moments": Rival(AdamOffload, BFLOAT16_MOMENTS),
    "AdamOffload, bfloat16, bfloat16 moments": Rival(AdamOffload, BFLOAT16_MOMENTS, "bfloat16"),
    "AdamOffload, uint8 moments": Rival(AdamOffload, UINT8_MOMENTS),
    "AdamOffload, bfloat16, uint8 moments": Rival(AdamOffload, UINT8_MOMENTS, "bfloat16"),
    "nn.Adam": Rival(nn.Adam),
    "ops.clip_by_global_norm, nn.Adam": Rival(Clipped, CLIP),
    "nn.AdamOffload": Rival(nn.AdamOffload),
    "FusedCastAdamWeightDecay": Rival(FusedCastAdamWeightDecay, answer=NoBiasCorrection),
}
MAIN = ("AdamOffload", "nn.Adam", "nn.AdamOffload")
FROM_PYTHON = {f"{name}, called from Python": replace(ALL[name], in_graph=False) for name in MAIN}
