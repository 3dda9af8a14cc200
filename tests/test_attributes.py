# SPDX-License-Identifier: Apache-2.0

"""Attributes assigned to an optimizer: they take effect in the next step, or are refused."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload

GRADIENTS = (Tensor(np.ones(2, np.float32)),)


def new_optimizer(learning_rate=0.5, **arguments):
    weight = Parameter(Tensor(np.zeros(2, np.float32)), name="weight")
    return weight, AdamOffload([weight], learning_rate, **arguments)


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


RATES = [
    0.25,
    0,
    Tensor(0.125, ms.float32),
    Parameter(Tensor(0.375, ms.float32), name="learning_rate"),
]


@pytest.mark.usefixtures("mode")
def test_a_new_learning_rate_takes_effect():
    weight, optimizer = new_optimizer()
    optimizer(GRADIENTS)
    moved = 0.5
    for rate in RATES:
        optimizer.learning_rate = rate
        optimizer(GRADIENTS)
        # With equal gradients, each step of Adam is as long as its rate.
        moved += float(rate)
        np.testing.assert_allclose(weight.asnumpy(), -moved, atol=1e-5)
        assert optimizer.learning_rate.name == "learning_rate"


def test_a_wrong_learning_rate_is_refused():
    weight, optimizer = new_optimizer()
    for rate in (-0.1, float("nan"), [0.1, 0.2]):
        with pytest.raises(ValueError, match=r"'learning_rate' must be one number, at least 0, but got"):
            optimizer.learning_rate = rate
    optimizer(GRADIENTS)
    np.testing.assert_allclose(weight.asnumpy(), -0.5, atol=1e-5)


def test_a_schedule_is_not_replaced():
    _, optimizer = new_optimizer(nn.ExponentialDecayLR(0.5, 0.5, 1))
    with pytest.raises(AttributeError, match="'learning_rate' must not be assigned to, because it is a schedule"):
        optimizer.learning_rate = 0.1


def test_a_step_that_does_not_compile_leaves_the_weight_decay_free():
    """After a gradient of 0, the first moment is a tenth of decay times weight."""
    weight = Parameter(Tensor(np.ones(2, np.float32)), name="weight")
    optimizer = AdamOffload([weight], weight_decay=0.1)
    with pytest.raises(ValueError, match="must have the shape of its parameter"):
        optimizer((Tensor(np.ones(3, np.float32)),))
    optimizer.weight_decay = Tensor(0.5, ms.float32)
    optimizer((Tensor(np.zeros(2, np.float32)),))
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), 0.05, rtol=1e-6)


FIXED = {"beta1": 0.5, "beta2": Tensor(0.5, ms.float32), "eps": 1.0, "loss_scale": 2.0, "weight_decay": 0.5}
FIXED |= {"writeback": "assign", "offload_ratio": 0.5, "global_norm": None, "skipped_steps": None}
STATES = ("moment1", "moment2", "master", "global_step", "beta1_power", "beta2_power")
FIXED |= dict.fromkeys(STATES, Parameter(Tensor([5], ms.int32), name="count"))


def test_what_the_step_holds_is_refused():
    weight, optimizer = new_optimizer()
    before = {name: getattr(optimizer, name) for name in FIXED}
    optimizer(GRADIENTS)
    for name, value in FIXED.items():
        with pytest.raises(AttributeError, match=f"'AdamOffload', the attribute '{name}' must not be .*new optimizer"):
            setattr(optimizer, name, value)
        assert getattr(optimizer, name) is before[name]
    optimizer(GRADIENTS)
    np.testing.assert_allclose(weight.asnumpy(), -1, atol=1e-5)
