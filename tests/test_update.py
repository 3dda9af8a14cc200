# SPDX-License-Identifier: Apache-2.0

"""The update: element by element against float64, for both host operations."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from oracle import MUTANTS, Oracle, assert_agrees
from test_half import rounded_to_bfloat16

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
    "decay+clip+loss-scale": {"weight_decay": 0.1, "loss_scale": 1000.0, "max_grad_norm": 3.0},
}


def scenario_data(gradient_size=1.0, **settings):
    """Returns weights, the gradients of ten steps (some exactly zero), and the optimizer's arguments."""
    random = np.random.default_rng(7)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    scale = gradient_size * settings.get("loss_scale", 1.0)
    steps = [[(scale * random.standard_normal(shape)).astype(np.float32) for shape in SHAPES] for _ in range(10)]
    for gradients in steps:
        gradients[-1][::7] = 0
    return weights, steps, settings


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agrees_with_float64(scenario, host_kernel, writeback):
    weights, steps, settings = scenario_data(**SCENARIOS[scenario])
    parameters = [Parameter(Tensor(weight), name=f"weight{i}") for i, weight in enumerate(weights)]
    optimizer = AdamOffload(parameters, host_kernel=host_kernel, writeback=writeback, **settings)
    oracle = Oracle(weights, **settings)
    for step, gradients in enumerate(steps, 1):
        oracle.step(gradients, [parameter.asnumpy() for parameter in optimizer.parameters])
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        if step in (1, 2, 10):
            states = (optimizer.parameters, optimizer.moment1, optimizer.moment2)
            assert_agrees(oracle, *([state.asnumpy() for state in kind] for kind in states))
    assert optimizer.global_step.asnumpy() == [10]
    assert optimizer.beta1_power.asnumpy() == [oracle.power1]
    assert optimizer.beta2_power.asnumpy() == [oracle.power2]


@pytest.mark.parametrize("scenario", ["default", "decay+nesterov", "tiny-gradients", "decay+clip+loss-scale"])
def test_masters_agree_with_float64(scenario, host_kernel, writeback):
    """One optimizer has parameters and gradients of all dtypes. Masters are as accurate as float32 weights."""
    weights, steps, settings = scenario_data(**SCENARIOS[scenario])
    dtypes = [(ms.float16, ms.float16), (ms.float32, ms.float16), (ms.bfloat16, ms.bfloat16)]
    dtypes += [(ms.float16, ms.float32), (ms.float32, ms.float32), (ms.bfloat16, ms.float16)]
    parameters = [
        Parameter(Tensor(weight).astype(dtype), name=f"weight{i}")
        for i, (weight, (dtype, _)) in enumerate(zip(weights, dtypes))
    ]
    oracle = Oracle([parameter.float().asnumpy() for parameter in parameters], **settings)
    optimizer = AdamOffload(parameters, host_kernel=host_kernel, writeback=writeback, **settings)
    masters = {master.name: master for master in optimizer.master}
    assert masters.keys() == {f"master.{p.name}" for p in parameters if p.dtype != ms.float32}
    wide = [masters.get(f"master.{parameter.name}", parameter) for parameter in parameters]
    for step, gradients in enumerate(steps):
        gradients = [Tensor(gradient).astype(dtype) for gradient, (_, dtype) in zip(gradients, dtypes)]
        # In the first step the masters are copied from the parameters.
        before = wide if step else parameters
        oracle.step([g.float().asnumpy() for g in gradients], [w.float().asnumpy() for w in before])
        optimizer(tuple(gradients))
    assert_agrees(
        oracle, *([state.asnumpy() for state in kind] for kind in (wide, optimizer.moment1, optimizer.moment2))
    )
    for parameter, master in zip(parameters, wide):
        np.testing.assert_array_equal(parameter.float().asnumpy(), rounded(master.asnumpy(), parameter.dtype))


def rounded(values, dtype):
    if dtype == ms.float16:
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == ms.bfloat16:
        return (rounded_to_bfloat16(values.reshape(-1)).astype(np.uint32) << 16).view(np.float32).reshape(values.shape)
    return values


def noticing_scenarios(right, wrong, scenarios):
    """Returns the scenarios in which the tolerances of these tests tell the wrong Adam from the right one."""
    noticed = []
    for name, scenario in scenarios.items():
        weights, steps, settings = scenario_data(**scenario)
        oracle, mutant = right(weights, **settings), wrong(weights, **settings)
        for gradients in steps:
            oracle.step(gradients)
            mutant.step(gradients)
        try:
            assert_agrees(oracle, mutant.weights, mutant.moment1, mutant.moment2)
        except AssertionError:
            noticed.append(name)
    return noticed


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_adam_would_be_noticed(mutant):
    assert noticing_scenarios(Oracle, mutant, SCENARIOS)
