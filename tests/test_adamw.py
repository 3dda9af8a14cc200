# SPDX-License-Identifier: Apache-2.0

"""AdamW: against float64, and with groups and schedules."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from nets import assert_same, parameters_of
from oracle import ADAMW_MUTANTS, AdamW, assert_agrees
from test_update import noticing_scenarios, scenario_data

from mindspore_offload import AdamOffload, AdamWOffload

SCENARIOS = {
    "default": {},
    "no-decay": {"weight_decay": 0.0},
    "decay": {"weight_decay": 0.3, "learning_rate": 0.05},
    "decay+nesterov": {"weight_decay": 0.3, "learning_rate": 0.05, "use_nesterov": True},
    "eps": {"eps": 1e-3, "learning_rate": 0.05},
    "decay+clip+loss-scale": {"weight_decay": 0.3, "loss_scale": 1000.0, "max_grad_norm": 3.0},
    "tiny-gradients": {"gradient_size": 1e-9},
}


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agrees_with_float64(scenario, host_kernel, writeback):
    """One optimizer has parameters of all dtypes. For 16-bit parameters, the oracle is compared with the masters."""
    weights, steps, settings = scenario_data(**SCENARIOS[scenario])
    dtypes = [ms.float32, ms.float32, ms.float16, ms.bfloat16, ms.float16, ms.float32]
    parameters = [Parameter(Tensor(w).astype(d), name=f"w{i}") for i, (w, d) in enumerate(zip(weights, dtypes))]
    oracle = AdamW([parameter.float().asnumpy() for parameter in parameters], **settings)
    optimizer = AdamWOffload(parameters, host_kernel=host_kernel, writeback=writeback, **settings)
    masters = {master.name: master for master in optimizer.master}
    wide = [masters.get(f"master.{parameter.name}", parameter) for parameter in parameters]
    for step, gradients in enumerate(steps, 1):
        oracle.step(gradients)
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        if step in (1, 2, 10):
            kinds = (wide, optimizer.moment1, optimizer.moment2)
            assert_agrees(oracle, *([tensor.asnumpy() for tensor in kind] for kind in kinds))


@pytest.mark.parametrize("mutant", ADAMW_MUTANTS)
def test_a_wrong_adamw_would_be_noticed(mutant):
    assert noticing_scenarios(AdamW, mutant, SCENARIOS)


class Warming(nn.learning_rate_schedule.LearningRateSchedule):
    """Rises to 0.01 in 20 steps."""

    def construct(self, global_step):
        return 0.01 * (global_step.astype(ms.float32) + 1).clip(0, 20) / 20


def rates_and_decays(step):
    """Returns rate and decay of the two groups below at `step`, counted from 0."""
    return (np.float32(0.01 * min(step + 1, 20) / 20), 0.3), (np.float32(0.005), 0.0)


def test_100_steps_with_groups_schedules_and_decay(host_kernel, writeback):
    """Each group has its own oracle, whose rate is set before each step."""
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in [(33, 5), (17,)]]
    parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
    groups = [
        {"params": parameters[:1], "lr": Warming(), "weight_decay": 0.3},
        {"params": parameters[1:], "lr": 0.005, "weight_decay": 0.0},
    ]
    optimizer = AdamWOffload(groups, host_kernel=host_kernel, writeback=writeback)
    oracles = [AdamW([weight], weight_decay=decay) for weight, (_, decay) in zip(weights, rates_and_decays(0))]
    for step in range(100):
        gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        for oracle, gradient, (rate, _) in zip(oracles, gradients, rates_and_decays(step)):
            oracle.learning_rate = float(rate)
            oracle.step([gradient])
    for oracle, parameter in zip(oracles, optimizer.parameters):
        error = np.abs(parameter.asnumpy() - oracle.weights[0])
        assert (error <= 1e-6 * np.maximum(1, np.abs(oracle.weights[0]))).all()


def test_decay_spares_beta_and_gamma_outside_groups():
    names = ("layer.weight", "norm.gamma", "norm.beta")
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in names]
    optimizer = AdamWOffload(parameters, 0.1, weight_decay=0.5)
    optimizer(tuple(Tensor(np.zeros(3, np.float32)) for _ in names))
    np.testing.assert_allclose([p.asnumpy()[0] for p in parameters], [0.95, 1, 1], rtol=1e-6)


def test_the_decay_does_not_depend_on_the_loss_scale():
    parameter = Parameter(Tensor(np.ones(3, np.float32)), name="w")
    AdamWOffload([parameter], 0.1, weight_decay=0.5, loss_scale=1024.0)((Tensor(np.zeros(3, np.float32)),))
    np.testing.assert_allclose(parameter.asnumpy(), 0.95, rtol=1e-6)


def test_adam_and_adamw_differ_only_in_the_decay():
    """Both have states of the same names. Without decay and with a negligible eps, their updates are equal."""
    ends = []
    for optimizer_class in (AdamOffload, AdamWOffload):
        parameters = [Parameter(Tensor(np.linspace(-1, 1, 7, dtype=np.float32)), name="w")]
        optimizer = optimizer_class(parameters, weight_decay=0.0, eps=1e-30)
        for step in range(3):
            optimizer((Tensor(np.full(7, 1.0 + step, np.float32)),))
        ends.append(parameters_of(optimizer))
    assert_same(*ends)
