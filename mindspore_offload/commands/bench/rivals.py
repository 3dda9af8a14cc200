"""The optimizers of MindSpore and of this package that are measured."""

from collections.abc import Callable
from typing import NamedTuple

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.common.initializer import initializer
from mindspore.ops import composite as C
from mindspore.ops import functional as F

from mindspore_offload import AdamOffload, AdamWOffload
from mindspore_offload.commands.bare_loop import LEARNING_RATE, bare_loop
from mindspore_offload.commands.oracle import BETA1, BETA2, EPS
from mindspore_offload.host import place as on_host

_update = C.MultitypeFuncGraph("update")


class Rival(NamedTuple):
    """An optimizer, and what it is given.

    Attributes:
        optimizer: Makes it of a list of parameters and of `settings`.
        dtype: Of the parameters and gradients.
        answer: How its answer differs from plain Adam's, in arguments of `oracle.adam`. Its decay and its loss scale
            are taken from `settings`.
    """

    optimizer: Callable
    settings: dict
    dtype: str = "float32"
    answer: dict = {}  # noqa: RUF012, it is never changed

    has_master = True

    def make(self, parameters):
        return self.optimizer(parameters, **self.settings)

    def start(self, data):
        """A function that runs one step, and one that gives the last parameter."""
        gradients = data.tensors(self.dtype)
        dtype = getattr(ms, self.dtype)
        parameters = [Parameter(Tensor(w).astype(dtype), name=f"weight{i}") for i, w in enumerate(data.weights)]
        optimizer = self.make(parameters)
        return lambda: optimizer(gradients), lambda: parameters[-1].astype(ms.float32).asnumpy()

    def expected(self):
        """All that `oracle.adam` has to know besides weight and gradients."""
        given = {name: self.settings[name] for name in ("weight_decay", "loss_scale") if name in self.settings}
        return {**given, **self.answer}


class BareLoop:
    """The simplest loop over the same bytes, for comparison: about what memory allows."""

    dtype, has_master = "float32", True

    def start(self, data):
        return bare_loop(data.weights, data.gradients)

    def expected(self):
        return {}


class FusedCastAdamWeightDecay(nn.Cell):
    """MindSpore's host operation of this name, one for each parameter and nothing besides: no bias correction."""

    def __init__(self, parameters):
        super().__init__()
        self.weights = ParameterTuple(parameters)
        self.moment1, self.moment2 = (
            ParameterTuple(
                Parameter(initializer("zeros", p.shape, ms.float32), name=f"{m}.{p.name}") for p in parameters
            )
            for m in ("m", "v")
        )
        self.adam = on_host(ops.FusedCastAdamWeightDecay())
        self.constants = tuple(Tensor(value, ms.float32) for value in (LEARNING_RATE, BETA1, BETA2, EPS, 0.0, 1.0))
        self.map_ = C.Map()

    def construct(self, gradients):
        launched = self.map_(
            F.partial(_update, self.adam, self.constants), self.weights, self.moment1, self.moment2, gradients
        )
        return F.depend(True, launched)


@_update.register("Function", "Tuple", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_one(adam, constants, weight, moment1, moment2, gradient):
    rate, beta1, beta2, eps, decay, norm = constants
    return adam(weight, moment1, moment2, rate, beta1, beta2, eps, decay, gradient, norm)


class Clipped(nn.Cell):
    """`nn.Adam` after MindSpore's own clipping, in one graph."""

    def __init__(self, parameters, max_grad_norm):
        super().__init__()
        self.optimizer, self.max_grad_norm = nn.Adam(parameters), max_grad_norm
        self.parameters = self.optimizer.parameters

    def construct(self, gradients):
        return self.optimizer(ops.clip_by_global_norm(gradients, self.max_grad_norm))


BARE_LOOP = "bare loop"
# So large that the answer is that of Adam; measuring the norm and multiplying cost what they always do.
CLIP = {"max_grad_norm": 1e9}
NATIVE, STOCK = {"host_kernel": "native"}, {"host_kernel": "stock"}
ALL = {
    "AdamOffload": Rival(AdamOffload, NATIVE),
    "AdamOffload, decay and loss scale": Rival(AdamOffload, {**NATIVE, "weight_decay": 1e-4, "loss_scale": 1024.0}),
    "AdamOffload, clipping": Rival(AdamOffload, {**NATIVE, **CLIP}),
    "AdamWOffload": Rival(
        AdamWOffload, {**NATIVE, "weight_decay": 0.01}, answer={"decoupled": True, "eps_on_corrected_root": True}
    ),
    "AdamOffload, assign": Rival(AdamOffload, {**NATIVE, "writeback": "assign"}),
    "AdamOffload, stock": Rival(AdamOffload, STOCK),
    "AdamOffload, float16": Rival(AdamOffload, NATIVE, "float16"),
    "AdamOffload, bfloat16": Rival(AdamOffload, NATIVE, "bfloat16"),
    "AdamOffload, float16, stock": Rival(AdamOffload, STOCK, "float16"),
    "nn.Adam": Rival(nn.Adam, {}),
    "ops.clip_by_global_norm, nn.Adam": Rival(Clipped, CLIP),
    "nn.AdamOffload": Rival(nn.AdamOffload, {}),
    "FusedCastAdamWeightDecay": Rival(FusedCastAdamWeightDecay, {}, answer={"bias_correction": False}),
}
MAIN = ("AdamOffload", "nn.Adam", "nn.AdamOffload")
TRAINED = (*MAIN, "AdamOffload, clipping", "ops.clip_by_global_norm, nn.Adam")
