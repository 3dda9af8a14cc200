# SPDX-License-Identifier: Apache-2.0

"""The updates of Adam and AdamW, element by element against float64: on the host, on the device, in both writebacks.

An optimizer has a parameter for each row of a table: of all dtypes and shapes, with different rates, decays and sizes
of gradients.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from oracle import ADAMW_MUTANTS, MUTANTS, AdamW, Oracle, assert_agrees
from steps import OPTIMIZERS, ORACLES, PLACES, check_beside, step_beside

F32, F16, BF16 = ms.float32, ms.float16, ms.bfloat16

# Shape, dtype, dtype of the gradients, learning rate, weight decay, size of the gradients. The last rows, with
# gradients of other sizes than 1, are not in the cases with clipping, where they would decide the norm.
ROWS = [
    ((), F32, F32, 1e-3, 0.0, 1),
    ((1,), F32, F16, 0.05, 0.1, 1),
    ((7, 5), F32, F32, 0.05, 0.3, 1),
    ((1031,), F32, F32, 1e-3, 0.0, 1),
    ((), F16, F16, 1e-3, 0.0, 1),
    ((17, 3, 2), F16, F16, 0.05, 0.1, 1),
    ((1031,), F16, F32, 0.05, 0.0, 1),
    ((), BF16, BF16, 0.05, 0.3, 1),
    ((3,), BF16, F16, 1e-3, 0.0, 1),
    ((1031,), BF16, BF16, 1e-3, 0.1, 1),
    ((17, 3, 2), F32, F32, 1e-3, 0.0, 1e-9),
    ((7, 5), F32, F32, 0.05, 0.1, 1e9),
]

SETTINGS = {
    "plain": {},
    "nesterov+loss-scale+constants": {
        "use_nesterov": True,
        "loss_scale": 1024.0,
        "beta1": 0.7,
        "beta2": 0.99,
        "eps": 1e-3,
        "skip_nonfinite": True,
    },
    "clip+loss-scale": {"loss_scale": 1000.0, "max_grad_norm": 3.0},
}

# On the device are the small parameters: with the ratios, those and one or two of 1031 elements, and at 0.0 all.
ALL_PLACES = {
    **PLACES,
    "device-native-in_place": {**PLACES["native-in_place"], "offload_ratio": 0.7},
    "device-native-assign": {**PLACES["native-assign"], "offload_ratio": 0.3},
    "device-stock-in_place": {**PLACES["stock-in_place"], "min_offload_size": 100},
    "device-stock-assign": {**PLACES["stock-assign"], "min_offload_size": 100},
    "device": {"offload_ratio": 0.0},
}
BY_DEFAULT = {
    ("Adam", "plain"): ["native-in_place", "native-assign", "stock-assign", "device"],
    ("Adam", "nesterov+loss-scale+constants"): [
        "native-in_place",
        "native-assign",
        "stock-in_place",
        "device-native-assign",
    ],
    ("Adam", "clip+loss-scale"): ["native-in_place", "native-assign", "stock-assign", "device-native-in_place"],
    ("AdamW", "plain"): ["native-in_place", "native-assign", "stock-in_place"],
    ("AdamW", "nesterov+loss-scale+constants"): ["native-in_place", "native-assign", "device-native-in_place"],
    ("AdamW", "clip+loss-scale"): ["native-in_place", "native-assign", "stock-in_place", "device-native-assign"],
}


COMBINATIONS = [
    pytest.param(*case, place, marks=() if place in by_default else pytest.mark.full)
    for case, by_default in BY_DEFAULT.items()
    for place in ALL_PLACES
]


def rows_of(settings):
    return [row for row in ROWS if row[-1] == 1 or "max_grad_norm" not in settings]


def data_for(settings):
    """Returns the weights and the gradients of ten steps, some exactly zero, of the rows."""
    random = np.random.default_rng(7)
    rows, scale = rows_of(settings), settings.get("loss_scale", 1.0)

    def normal(shape, size=1.0):
        return np.asarray(size * random.standard_normal(shape), np.float32)

    weights = [normal(shape) for shape, *_ in rows]
    steps = [[normal(shape, scale * size) for shape, *_, size in rows] for _ in range(10)]
    for gradients in steps:
        for gradient in gradients:
            if gradient.shape == (1031,):
                gradient[::7] = 0
    return weights, steps


def new_oracle(oracle_class, settings, weights):
    *_, rates, decays, _ = zip(*rows_of(settings))
    settings = {name: value for name, value in settings.items() if name != "skip_nonfinite"}
    return oracle_class(weights, learning_rate=rates, weight_decay=decays, **settings)


@pytest.mark.parametrize(("optimizer", "settings", "place"), COMBINATIONS)
def test_agrees_with_float64(optimizer, settings, place):
    optimizer_class, settings = OPTIMIZERS[optimizer], SETTINGS[settings]
    rows, (weights, steps) = rows_of(settings), data_for(settings)
    parameters = [
        Parameter(Tensor(weight).astype(dtype), name=f"w{i}")
        for i, (weight, (_, dtype, *_)) in enumerate(zip(weights, rows))
    ]
    groups = [
        {"params": [parameter], "lr": rate, "weight_decay": decay}
        for parameter, (*_, rate, decay, _) in zip(parameters, rows)
    ]
    optimizer = optimizer_class(groups, **settings, **ALL_PLACES[place])
    oracle = new_oracle(ORACLES[optimizer_class], settings, [p.float().asnumpy() for p in parameters])
    for step, gradients in enumerate(steps, 1):
        gradients = [Tensor(gradient).astype(dtype) for gradient, (_, _, dtype, *_) in zip(gradients, rows)]
        step_beside(oracle, optimizer, gradients)
        if step in (1, 2, 10):
            check_beside(oracle, optimizer)
    assert [parameter.shape for parameter in parameters] == [shape for shape, *_ in rows]
    assert {master.name for master in optimizer.master} == {f"master.{p.name}" for p in parameters if p.dtype != F32}
    assert optimizer.global_step.asnumpy() == [10]
    assert optimizer.beta1_power.asnumpy() == [oracle.power1]
    assert optimizer.beta2_power.asnumpy() == [oracle.power2]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [*((Oracle, wrong) for wrong in MUTANTS), *((AdamW, wrong) for wrong in ADAMW_MUTANTS)],
    ids=lambda oracle: oracle.__name__,
)
def test_a_wrong_adam_would_be_noticed(right, wrong):
    """In one of the cases, and with the tolerances of the test above."""
    for settings in SETTINGS.values():
        weights, steps = data_for(settings)
        oracle, mutant = (new_oracle(each, settings, weights) for each in (right, wrong))
        for gradients in steps:
            oracle.step(gradients)
            mutant.step(gradients)
        try:
            assert_agrees(oracle, mutant.weights, mutant.moment1, mutant.moment2)
        except AssertionError:
            return
    raise AssertionError(f"{wrong.__name__} agrees in all cases")
