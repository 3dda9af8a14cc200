"""The update itself, element by element against float64, for both host operations."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from oracle import MUTANTS, Oracle, assert_agrees

from mindspore_offload import AdamOffload

SHAPES = [(), (1,), (3,), (7, 5), (17, 3, 2), (1031,)]

SCENARIOS = {
    "default": {},
    "nesterov": {"use_nesterov": True},
    "decay": {"weight_decay": 0.1},
    "loss-scale": {"loss_scale": 1024.0},
    "decay+loss-scale": {"weight_decay": 0.1, "loss_scale": 1024.0},
    "decay+nesterov": {"weight_decay": 0.1, "use_nesterov": True},
    "other-constants": {"learning_rate": 0.05, "beta1": 0.7, "beta2": 0.99, "eps": 1e-3},
    "tiny-gradients": {"gradient_size": 1e-9},
    "huge-gradients": {"gradient_size": 1e9},
}


def scenario_data(gradient_size=1.0, **settings):
    """Weights, ten steps of gradients with some exact zeros among them, and the optimizer's arguments."""
    random = np.random.default_rng(7)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    scale = gradient_size * settings.get("loss_scale", 1.0)
    steps = [[(scale * random.standard_normal(shape)).astype(np.float32) for shape in SHAPES] for _ in range(10)]
    for gradients in steps:
        gradients[-1][::7] = 0
    return weights, steps, settings


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agrees_with_float64(scenario, host_kernel):
    weights, steps, settings = scenario_data(**SCENARIOS[scenario])
    parameters = [Parameter(Tensor(weight), name=f"weight{i}") for i, weight in enumerate(weights)]
    optimizer = AdamOffload(parameters, host_kernel=host_kernel, **settings)
    oracle = Oracle(weights, **settings)
    for step, gradients in enumerate(steps, 1):
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        oracle.step(gradients)
        if step in (1, 2, 10):
            states = (optimizer.parameters, optimizer.moment1, optimizer.moment2)
            assert_agrees(oracle, *([state.asnumpy() for state in kind] for kind in states))
    assert optimizer.global_step.asnumpy() == [10]
    assert optimizer.beta1_power.asnumpy() == [oracle.power1]
    assert optimizer.beta2_power.asnumpy() == [oracle.power2]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_adam_would_be_noticed(mutant):
    """The tolerances of these tests are proven: every wrong Adam fails at least one scenario."""
    noticed = []
    for name, scenario in SCENARIOS.items():
        weights, steps, settings = scenario_data(**scenario)
        right, wrong = Oracle(weights, **settings), mutant(weights, **settings)
        for gradients in steps:
            right.step(gradients)
            wrong.step(gradients)
        try:
            assert_agrees(right, wrong.weights, wrong.moment1, wrong.moment2)
        except AssertionError:
            noticed.append(name)
    assert noticed
