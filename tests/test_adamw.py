# SPDX-License-Identifier: Apache-2.0

"""AdamW: the decay, over many steps, and the difference from Adam. test_update.py has the comparison of its updates."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from nets import assert_same, parameters_of
from oracle import AdamW
from schedules import Warming

from mindspore_offload import AdamOffload, AdamWOffload


def rates(step):
    """Returns the rates of the two groups below at `step`, counted from 0."""
    return 0.01 * min(step + 1, 20) / 20, 0.005


def test_100_steps_with_groups_schedules_and_decay(host_kernel, writeback):
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in [(33, 5), (17,)]]
    parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
    groups = [
        {"params": parameters[:1], "lr": Warming(), "weight_decay": 0.3},
        {"params": parameters[1:], "lr": 0.005, "weight_decay": 0.0},
    ]
    optimizer = AdamWOffload(groups, host_kernel=host_kernel, writeback=writeback)
    oracle = AdamW(weights)
    for step in range(100):
        gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        oracle.change(rates(step), (0.3, 0.0))
        oracle.step(gradients)
    for expected, parameter in zip(oracle.weights, optimizer.parameters):
        error = np.abs(parameter.asnumpy() - expected)
        assert (error <= 1e-6 * np.maximum(1, np.abs(expected))).all()


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_decay_spares_beta_and_gamma_outside_groups(loss_scale):
    """The decay does not depend on the loss scale."""
    names = ("layer.weight", "norm.gamma", "norm.beta")
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in names]
    optimizer = AdamWOffload(parameters, 0.1, weight_decay=0.5, loss_scale=loss_scale)
    optimizer(tuple(Tensor(np.zeros(3, np.float32)) for _ in names))
    np.testing.assert_allclose([p.asnumpy()[0] for p in parameters], [0.95, 1, 1], rtol=1e-6)


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


def test_a_class_between_both_is_called():
    class Between(AdamOffload):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.was_called = True

    class Both(AdamWOffload, Between):
        pass

    assert Both([Parameter(Tensor(np.ones(3, np.float32)), name="w")]).was_called
