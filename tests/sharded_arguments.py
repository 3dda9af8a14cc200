# SPDX-License-Identifier: Apache-2.0

"""Arguments of an optimizer that differ between two ranks."""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule
from sharded_training import BF16, F32, Net


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
