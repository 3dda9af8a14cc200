# SPDX-License-Identifier: Apache-2.0

"""The documented contract, one case a line, for both host operations and for the optimizer that is replaced.

Every case trains three parameters for four steps and compares each with its own float64 oracle, which has the learning
rate and the weight decay of the case. `nn.AdamOffload` runs through the same table, which checks the table itself.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from nets import parameters_of
from oracle import Oracle, assert_agrees

from mindspore_offload import AdamOffload

STEPS = 4
NAMES = ("dense.weight", "norm.gamma", "dense.bias")
SHAPES = ((5, 3), (3,), (7,))

OPTIMIZERS = {
    "native": lambda *args, **kwargs: AdamOffload(*args, host_kernel="native", **kwargs),
    "stock": lambda *args, **kwargs: AdamOffload(*args, host_kernel="stock", **kwargs),
    "replaced": nn.AdamOffload,
}


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    return OPTIMIZERS[request.param]


@pytest.fixture(params=["native", "stock"])
def make_ours(request):
    return OPTIMIZERS[request.param]


def new_parameters():
    random = np.random.default_rng(2)
    return [
        Parameter(Tensor(random.standard_normal(shape).astype(np.float32)), name=name)
        for name, shape in zip(NAMES, SHAPES)
    ]


def gradients_of_steps(steps=STEPS, scale=1.0):
    random = np.random.default_rng(3)
    return [[(scale * random.standard_normal(s)).astype(np.float32) for s in SHAPES] for _ in range(steps)]


class HalvingRate(nn.learning_rate_schedule.LearningRateSchedule):
    def construct(self, global_step):
        return 0.1 * ops.pow(Tensor(0.5, ms.float32), global_step.astype(ms.float32))


class GrowingDecay(nn.Cell):
    def construct(self, global_step):
        return (global_step.astype(ms.float32) + 1) * 0.05


def halving(step):
    return 0.1 * 0.5**step


def growing(step):
    return (step + 1) * 0.05


def exponential(step):
    return 0.1 * 0.9 ** (step / 2)


def warm_up(step):
    return 0.1 * min(step, 3) / 3


RATES = [0.1, 0.05, 0.2, 0.01]

# The learning rate as the user writes it, and its value in step 0, 1, ...
LEARNING_RATES = {
    "float": (lambda: 0.02, lambda step: 0.02),
    "int": (lambda: 1, lambda step: 1.0),
    "tensor-0d": (lambda: Tensor(0.02, ms.float32), lambda step: 0.02),
    "tensor-1d": (lambda: Tensor(RATES, ms.float32), RATES.__getitem__),
    "list": (lambda: RATES, RATES.__getitem__),
    "generator": (lambda: (rate for rate in RATES), RATES.__getitem__),
    "numpy": (lambda: np.array(RATES), RATES.__getitem__),
    "exponential-decay": (lambda: nn.ExponentialDecayLR(0.1, 0.9, 2), exponential),
    "natural-exp-decay": (lambda: nn.NaturalExpDecayLR(0.1, 0.9, 2), lambda s: 0.1 * np.exp(-0.9 * s)),
    "inverse-decay": (lambda: nn.InverseDecayLR(0.1, 0.5, 2), lambda s: 0.1 / (1 + 0.5 * s / 2)),
    "cosine-decay": (lambda: nn.CosineDecayLR(0.01, 0.1, 4), lambda s: 0.01 + 0.045 * (1 + np.cos(np.pi * s / 4))),
    "polynomial-decay": (lambda: nn.PolynomialDecayLR(0.1, 0.01, 4, 0.5), lambda s: 0.09 * (1 - s / 4) ** 0.5 + 0.01),
    "warm-up": (lambda: nn.WarmUpLR(0.1, 3), warm_up),
    "own-schedule": (HalvingRate, halving),
}

WEIGHT_DECAYS = {
    "none": (lambda: 0.0, lambda step: 0.0),
    "float": (lambda: 0.1, lambda step: 0.1),
    "int": (lambda: 1, lambda step: 1.0),
    "cell": (GrowingDecay, growing),
}

# The groups as the user writes them, then the learning rates and the weight decays of the three parameters at a step.
# The defaults of the optimizer are 0.02 and 0.1.
GROUPS = {
    "one-sets-nothing": (
        lambda w, g, b: [{"params": [w, g]}, {"params": [b], "lr": 0.3}],
        lambda s: [0.02, 0.02, 0.3],
        lambda s: [0.1, 0.1, 0.1],
    ),
    "names-do-not-matter": (
        lambda w, g, b: [{"params": [w], "weight_decay": 0.0}, {"params": [g, b], "weight_decay": 0.2}],
        lambda s: [0.02, 0.02, 0.02],
        lambda s: [0.0, 0.2, 0.2],
    ),
    "fixed-and-scheduled": (
        lambda w, g, b: [{"params": [w], "lr": HalvingRate()}, {"params": [g], "lr": 0.3}, {"params": [b]}],
        lambda s: [halving(s), 0.3, 0.02],
        lambda s: [0.1, 0.1, 0.1],
    ),
    "fixed-and-listed": (
        lambda w, g, b: [{"params": [w, b], "lr": RATES}, {"params": [g], "lr": Tensor(0.3, ms.float32)}],
        lambda s: [RATES[s], 0.3, RATES[s]],
        lambda s: [0.1, 0.1, 0.1],
    ),
    "dynamic-decay-in-one": (
        lambda w, g, b: [{"params": [w], "weight_decay": GrowingDecay()}, {"params": [g, b], "weight_decay": 0.0}],
        lambda s: [0.02, 0.02, 0.02],
        lambda s: [growing(s), 0.0, 0.0],
    ),
    "everything": (
        lambda w, g, b: [
            {"params": [b], "lr": HalvingRate(), "weight_decay": GrowingDecay(), "grad_centralization": True},
            {"params": [g, w], "lr": RATES, "weight_decay": 0.3},
            {"order_params": [w, g, b]},
        ],
        lambda s: [RATES[s], RATES[s], halving(s)],
        lambda s: [0.3, 0.3, growing(s)],
    ),
}


def check(optimizer, rates, decays, **settings):
    """Takes the steps and compares each parameter with its oracle. The optimizer may hold them in any order."""
    scale = settings.get("loss_scale", 1.0)
    parameters = {parameter.name: parameter for parameter in optimizer.parameters}
    places = [[p.name for p in optimizer.parameters].index(name) for name in NAMES]
    oracles = [Oracle([parameters[name].asnumpy()], **settings) for name in NAMES]
    for step, gradients in enumerate(gradients_of_steps(scale=scale)):
        in_order = dict(zip(NAMES, gradients))
        assert optimizer(tuple(Tensor(in_order[p.name]) for p in optimizer.parameters)) == (True,) * 3
        for oracle, gradient, rate, decay in zip(oracles, gradients, rates(step), decays(step)):
            oracle.learning_rate, oracle.weight_decay = float(np.float32(rate)), float(np.float32(decay * scale))
            oracle.step([gradient])
    for oracle, place in zip(oracles, places):
        state = [[kind[place].asnumpy()] for kind in (optimizer.parameters, optimizer.moment1, optimizer.moment2)]
        assert_agrees(oracle, *state)


@pytest.mark.parametrize("form", LEARNING_RATES)
def test_learning_rates(form, make):
    written, rate = LEARNING_RATES[form]
    check(make(new_parameters(), written()), lambda step: [rate(step)] * 3, lambda step: [0.0] * 3)


@pytest.mark.parametrize("loss_scale", [1.0, 1024], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("form", WEIGHT_DECAYS)
def test_weight_decays_spare_beta_and_gamma(form, loss_scale, make):
    written, decay = WEIGHT_DECAYS[form]
    optimizer = make(new_parameters(), weight_decay=written(), loss_scale=loss_scale)
    check(optimizer, lambda step: [1e-3] * 3, lambda step: [decay(step), 0.0, decay(step)], loss_scale=loss_scale)


@pytest.mark.parametrize("case", GROUPS)
def test_groups(case, make):
    groups, rates, decays = GROUPS[case]
    check(make(groups(*new_parameters()), learning_rate=0.02, weight_decay=0.1), rates, decays)


def test_order_params_keeps_their_order(make):
    w, g, b = new_parameters()
    optimizer = make([{"params": [b]}, {"params": [g, w]}, {"order_params": [w, g, b]}])
    assert [parameter.name for parameter in optimizer.parameters] == list(NAMES)


@pytest.mark.parametrize("kind", ["numbers", "schedules"])
def test_a_group_for_each_of_many_parameters(kind):
    """Layer-wise learning rates need such groups. With a gradient of 1, the first step is the learning rate."""
    rates = 1e-3 * np.arange(1, 301)
    parameters = [Parameter(Tensor(np.ones(2, np.float32)), name=f"weight{i}") for i in range(len(rates))]
    groups = [
        {
            "params": [parameter],
            "lr": nn.ExponentialDecayLR(rate, 0.5, 1) if kind == "schedules" else rate,
            "weight_decay": 1e-9 * rate,
        }
        for parameter, rate in zip(parameters, rates.tolist())
    ]
    AdamOffload(groups, host_kernel="native")(tuple(Tensor(np.ones(2, np.float32)) for _ in parameters))
    moved = [1 - parameter.asnumpy()[0] for parameter in parameters]
    np.testing.assert_allclose(moved, rates, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (lambda w, g, b: [{"params": [w, g, b], "lr": 0.1}], {"learning_rate_group_0"}),
        (lambda w, g, b: [{"params": [w, g]}, {"params": [b], "lr": 0.1}], {"learning_rate", "learning_rate_group_1"}),
        (lambda w, g, b: [{"params": [w, g, b]}], {"learning_rate"}),
        (lambda w, g, b: [w, g, b], {"learning_rate"}),
    ],
    ids=["all-set", "one-sets", "none-sets", "ungrouped"],
)
def test_names_of_learning_rates(groups, names, make):
    optimizer = make(groups(*new_parameters()))
    assert {name for name in parameters_of(optimizer) if name.startswith("learning_rate")} == names


def test_assigning_the_learning_rate_takes_effect(make):
    optimizer = make(new_parameters(), learning_rate=0.1)
    gradients = tuple(Tensor(gradient) for gradient in gradients_of_steps(1)[0])
    optimizer(gradients)
    assert optimizer.get_lr_parameter(optimizer.parameters[0]) is optimizer.learning_rate
    ops.assign(optimizer.learning_rate, Tensor(0.0, ms.float32))
    before = [parameter.asnumpy().copy() for parameter in optimizer.parameters]
    optimizer(gradients)
    for parameter, value in zip(optimizer.parameters, before):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert optimizer.global_step.asnumpy() == [2]


def test_a_step_after_the_end_of_a_list_of_rates_is_an_error(make):
    optimizer = make(new_parameters(), learning_rate=RATES[:2])
    steps = [tuple(Tensor(gradient) for gradient in gradients) for gradients in gradients_of_steps(3)]
    optimizer(steps[0])
    optimizer(steps[1])
    with pytest.raises(RuntimeError, match="Gather"):
        optimizer(steps[2])


def test_nonfinite_gradients_stay_in_their_elements(make):
    parameter = Parameter(Tensor(np.ones(4, np.float32)), name="weight")
    optimizer = make([parameter], learning_rate=0.5)
    optimizer((Tensor(np.array([np.nan, np.inf, 1, 1e30], np.float32)),))
    weight = parameter.asnumpy()
    assert np.isnan(weight[0])
    assert np.isnan(weight[1])
    np.testing.assert_allclose(weight[2:], [0.5, 1.0], rtol=1e-6)  # 1e30 squared is infinite: no update


WRONG_GROUPS = {
    "unknown-key": (lambda w, g, b: [{"params": [w], "rate": 0.1}], KeyError),
    "order-with-others": (lambda w, g, b: [{"params": [w]}, {"order_params": [w], "lr": 0.1}], ValueError),
    "order-of-another-length": (lambda w, g, b: [{"params": [w, g]}, {"order_params": [w]}], ValueError),
    "twice-in-groups": (lambda w, g, b: [{"params": [w]}, {"params": [w]}], RuntimeError),
    "twice": (lambda w, g, b: [w, g, w], ValueError),
    "none": (lambda w, g, b: [], ValueError),
    "nothing": (lambda w, g, b: None, ValueError),
    "two-of-one-name": (lambda w, g, b: [w, Parameter(Tensor([1.0], ms.float32), name=w.name)], ValueError),
    "no-parameters": (lambda w, g, b: [1, 2], TypeError),
    "lists-of-two-lengths": (
        lambda w, g, b: [{"params": [w], "lr": [0.1, 0.2]}, {"params": [g], "lr": [0.1, 0.2, 0.3]}],
        ValueError,
    ),
}


@pytest.mark.parametrize("case", WRONG_GROUPS)
def test_wrong_parameters_are_refused(case, make):
    groups, error = WRONG_GROUPS[case]
    with pytest.raises(error):
        make(groups(*new_parameters()))


def test_a_generator_in_a_group_is_read_once(make_ours):
    """The replaced optimizer silently gets no parameters from a generator."""
    optimizer = make_ours([{"params": (parameter for parameter in new_parameters())}])
    assert [parameter.name for parameter in optimizer.parameters] == list(NAMES)


def test_attributes_that_users_read(make):
    optimizer = make(new_parameters(), weight_decay=1e-3, loss_scale=1024)
    assert isinstance(optimizer.parameters, ParameterTuple)
    assert optimizer.params is optimizer.parameters
    assert float(optimizer.weight_decay.asnumpy()) == pytest.approx(1.024)
    assert float(optimizer.get_weight_decay().asnumpy()) == pytest.approx(1.024)
    assert float(optimizer.get_lr().asnumpy()) == pytest.approx(1e-3)
    assert optimizer.unique is True
    assert (optimizer.beta1_power.shape, optimizer.global_step.shape) == ((1,), (1,))
    with pytest.raises(NotImplementedError):
        optimizer.target = "CPU"
