# SPDX-License-Identifier: Apache-2.0

"""The documented contract, for both host operations and for the optimizer that is replaced.

All train for four steps and are compared with a float64 oracle, which gets the learning rate and the weight decay of
each parameter in each step. `nn.AdamOffload` runs through the same tables, which checks the tables themselves.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from nets import parameters_of
from oracle import Oracle, assert_agrees
from schedules import LEARNING_RATES, RATES, WEIGHT_DECAYS
from small_optimizers import MAKERS, NAMES, gradients_of_steps, new_parameters

from mindspore_offload import AdamOffload


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture(params=["native", "replaced", pytest.param("stock", marks=pytest.mark.full)])
def make_some(request):
    """For what does not depend on the host operation."""
    return MAKERS[request.param]


def check(optimizer, rates, decays, **settings):
    """Takes the steps. `rates` and `decays` are functions of the step, one for each parameter of the optimizer."""
    oracle = Oracle([parameter.asnumpy() for parameter in optimizer.parameters], **settings)
    loss_scale = settings.get("loss_scale", 1.0)
    for step, gradients in enumerate(gradients_of_steps(optimizer.parameters, scale=loss_scale)):
        oracle.change([rate(step) for rate in rates], [decay(step) for decay in decays], loss_scale)
        oracle.step(gradients)
        assert optimizer(tuple(Tensor(gradient) for gradient in gradients)) == (True,) * len(gradients)
    states = (optimizer.parameters, optimizer.moment1, optimizer.moment2)
    oracle.moment_units = 8  # decays round gradients too
    assert_agrees(oracle, *([state.asnumpy() for state in kind] for kind in states))


# A group for each form of a rate and each form of a decay. A group without them has those of the optimizer.
GROUPS = [
    *((rate, None) for rate in LEARNING_RATES),
    *((None, decay) for decay in WEIGHT_DECAYS),
    ("own-schedule", "cell"),
    ("list", "float"),
    (None, None),
]


@pytest.mark.parametrize("loss_scale", [1.0, 1024], ids=["unscaled", "scaled"])
def test_groups_with_all_forms_of_rates_and_decays(loss_scale, make):
    """Their names do not matter to the decay, and the order is that of `order_params`.

    The replaced optimizer finds what can be read once empty, in groups.
    """
    read_once = ("generator", "iterator", "map") if make is nn.AdamOffload else ()
    parameters = [
        Parameter(Tensor(np.linspace(-1, 1, 3 + i).astype(np.float32)), name=f"layer{i}.{name}")
        for i, name in zip(range(len(GROUPS)), ("weight", "beta", "gamma") * len(GROUPS))
    ]
    groups, rates, decays = [], [], []
    for parameter, (rate, decay) in zip(parameters, GROUPS):
        rate = "tuple" if rate in read_once else rate
        group = {"params": [parameter], "grad_centralization": True}
        if rate is not None:
            group["lr"] = LEARNING_RATES[rate][0]()
        if decay is not None:
            group["weight_decay"] = WEIGHT_DECAYS[decay][0]()
        groups.append(group)
        rates.append(LEARNING_RATES["float" if rate is None else rate][1])
        decays.append(WEIGHT_DECAYS["float" if decay is None else decay][1])
    groups = [*groups[1::2], *groups[::2], {"order_params": parameters}]
    optimizer = make(groups, learning_rate=0.02, weight_decay=0.1, loss_scale=loss_scale)
    assert [parameter.name for parameter in optimizer.parameters] == [parameter.name for parameter in parameters]
    check(optimizer, rates, decays, loss_scale=loss_scale)


def test_groups_that_set_only_decays(make_some):
    parameters = new_parameters()
    forms = ["none", "float", "cell"]
    groups = [{"params": [p], "weight_decay": WEIGHT_DECAYS[form][0]()} for p, form in zip(parameters, forms)]
    check(make_some(groups, 0.02), [lambda step: 0.02] * 3, [WEIGHT_DECAYS[form][1] for form in forms])


@pytest.mark.parametrize("form", ["int", "tensor-1d", "generator", "own-schedule"])
def test_a_rate_without_groups(form, make_some):
    """A step after the end of a list of rates is an error."""
    written, rate = LEARNING_RATES[form]
    optimizer = make_some(new_parameters(), written())
    check(optimizer, [rate] * 3, [lambda step: 0.0] * 3)
    if rate == RATES.__getitem__:
        with pytest.raises(RuntimeError, match="Gather"):
            optimizer(tuple(Tensor(gradient) for gradient in gradients_of_steps(optimizer.parameters)[0]))


@pytest.mark.parametrize(("form", "loss_scale"), [("float", 1024), ("int", 1.0), ("cell", 1024)])
def test_a_decay_without_groups_spares_beta_and_gamma(form, loss_scale, make_some):
    written, decay = WEIGHT_DECAYS[form]
    optimizer = make_some(new_parameters(), weight_decay=written(), loss_scale=loss_scale)
    check(optimizer, [lambda step: 1e-3] * 3, [decay, lambda step: 0.0, decay], loss_scale=loss_scale)


def test_a_group_for_each_of_many_parameters():
    """Layer-wise learning rates need such groups. With a gradient of 1, the first step is the learning rate."""
    rates = 1e-3 * np.arange(1, 301)
    parameters = [Parameter(Tensor(np.ones(2, np.float32)), name=f"weight{i}") for i in range(len(rates))]
    groups = [
        {
            "params": [parameter],
            "lr": nn.ExponentialDecayLR(rate, 0.5, 1) if i % 2 else rate,
            "weight_decay": 1e-9 * rate,
        }
        for i, (parameter, rate) in enumerate(zip(parameters, rates.tolist()))
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


def test_assigning_the_learning_rate_takes_effect(make_some):
    optimizer = make_some(new_parameters(), learning_rate=0.1)
    gradients = tuple(Tensor(gradient) for gradient in gradients_of_steps(optimizer.parameters)[0])
    optimizer(gradients)
    assert optimizer.get_lr_parameter(optimizer.parameters[0]) is optimizer.learning_rate
    ops.assign(optimizer.learning_rate, Tensor(0.0, ms.float32))
    before = [parameter.asnumpy().copy() for parameter in optimizer.parameters]
    optimizer(gradients)
    for parameter, value in zip(optimizer.parameters, before):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert optimizer.global_step.asnumpy() == [2]


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


def test_a_generator_in_a_group_is_read_once():
    """The replaced optimizer silently gets no parameters from a generator."""
    optimizer = AdamOffload([{"params": (parameter for parameter in new_parameters())}])
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
