# SPDX-License-Identifier: Apache-2.0

"""Weights, states and rates that are written between two steps, by anything but the optimizer."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from nets import assert_same, parameters_of
from rounding import rounded
from steps import DTYPES, PLACES, as_float32, wide_weights

from mindspore_offload import AdamOffload

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


def set_data(parameter, value):
    parameter.set_data(value)


def load_param_into_net(parameter, value):
    holder = nn.ParameterUpdate(parameter)
    ms.load_param_into_net(holder, {parameter.name: Parameter(value, name=parameter.name)}, strict_load=True)


def load_checkpoint(parameter, value):
    ms.save_checkpoint([{"name": parameter.name, "data": value}], "written.ckpt")
    ms.load_checkpoint("written.ckpt", net=nn.ParameterUpdate(parameter))


def assign_value(parameter, value):
    parameter.assign_value(value)


def assign(parameter, value):
    ops.assign(parameter, value)


def item(parameter, value):
    parameter[...] = value


WAYS = [set_data, load_param_into_net, load_checkpoint, assign_value, assign, item]


@pytest.fixture
def mode(request):
    ms.set_context(mode=MODES[request.param])
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


in_both_modes = pytest.mark.parametrize("mode", MODES, indirect=True)


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        ("graph", "native-in_place"),
        ("graph", "native-assign"),
        ("pynative", "native-in_place"),
        ("pynative", "native-assign"),
        ("graph", "stock-assign"),
        ("pynative", "stock-in_place"),
        pytest.param("graph", "stock-in_place", marks=pytest.mark.full),
        pytest.param("pynative", "stock-assign", marks=pytest.mark.full),
        ("graph", "device"),
    ],
    indirect=["mode"],
)
@pytest.mark.usefixtures("mode")
def test_weights(place):
    """Written elements win over their masters, before the first step too. The others keep their masters.

    Each parameter has a twin that is not written.
    """
    random = np.random.default_rng(2)
    starts = [random.standard_normal(31).astype(np.float32) for _ in DTYPES]
    written, twins = (
        [Parameter(Tensor(start).astype(DTYPES[dtype]), name=dtype + end) for start, dtype in zip(starts, DTYPES)]
        for end in ("", "-twin")
    )
    where = {"min_offload_size": 10**6} if place == "device" else PLACES[place]
    optimizer = AdamOffload([*written, *twins], 1e-3, **where)
    wide = wide_weights(optimizer)
    for number, write in enumerate(WAYS, start=8):
        # MindSpore has no Assign for bfloat16 on the CPU.
        able = {p.name: p for p in written if write is not assign or p.dtype != ms.bfloat16}
        for parameter in able.values():
            value = as_float32(parameter)
            value[::3] = number
            write(parameter, Tensor(value).astype(parameter.dtype))
            np.testing.assert_array_equal(as_float32(parameter), value)
        optimizer(tuple(Tensor(np.sign(start) * (1 + start**2)).astype(ms.float32) for start in (*starts, *starts)))
        for parameter, weight, twin in zip(written, wide, wide[len(written) :]):
            weight, twin = weight.asnumpy(), twin.asnumpy()
            if parameter.name in able:
                np.testing.assert_allclose(weight[::3], number, atol=4e-3)
                assert (weight[::3] != number).all()
            kept = np.arange(len(weight)) % 3 != 0
            np.testing.assert_array_equal(weight[kept], twin[kept])
            np.testing.assert_array_equal(as_float32(parameter), rounded(weight, parameter.dtype))


@in_both_modes
@pytest.mark.usefixtures("mode")
def test_states_and_rate():
    weight = Parameter(Tensor(np.zeros(3), ms.float32), name="weight")
    optimizer = AdamOffload([weight], learning_rate=0.5)
    gradients = (Tensor(np.float32([3, -1, 2])),)
    optimizer(gradients)
    at_one = parameters_of(optimizer)
    optimizer(gradients)
    at_two = parameters_of(optimizer)
    for write in WAYS:
        optimizer(gradients)
        for parameter in optimizer.get_parameters():
            write(parameter, Tensor(at_one[parameter.name]))
        optimizer(gradients)
        assert_same(parameters_of(optimizer), at_two)
        write(optimizer.learning_rate, Tensor(0.0, ms.float32))
        optimizer(gradients)
        np.testing.assert_array_equal(weight.asnumpy(), at_two["weight"])


def train_one_step_cell(net, optimizer, inputs, labels):
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer).set_train(), (inputs, labels)


def model(net, optimizer, inputs, labels):
    batch = ms.dataset.NumpySlicesDataset({"x": inputs.asnumpy()[None], "y": labels.asnumpy()[None]}, shuffle=False)
    return ms.Model(net, nn.MSELoss(), optimizer).train, (1, batch)


@pytest.mark.parametrize(
    ("mode", "make_step"),
    [
        ("graph", train_one_step_cell),
        ("pynative", model),
        pytest.param("graph", model, marks=pytest.mark.full),
        pytest.param("pynative", train_one_step_cell, marks=pytest.mark.full),
    ],
    indirect=["mode"],
)
@pytest.mark.usefixtures("mode")
def test_average_of_weights_swapped_in_and_out(make_step):
    """An evaluation with other weights in between changes nothing of the training."""
    inputs, labels = Tensor(np.ones((8, 4), np.float32)), Tensor(np.ones((8, 2), np.float32))

    def trained(evaluate):
        net = nn.Dense(4, 2, weight_init="ones", bias_init="zeros")
        optimizer = AdamOffload(net.trainable_params(), learning_rate=0.05)
        step, arguments = make_step(net, optimizer, inputs, labels)
        for _ in range(2):
            step(*arguments)
        if evaluate:
            kept = {name: Parameter(Tensor(value), name=name) for name, value in parameters_of(net).items()}
            average = {name: Parameter(value * 0.5, name=name) for name, value in kept.items()}
            ms.load_param_into_net(net, average)
            net(inputs)
            ms.load_param_into_net(net, kept)
        step(*arguments)
        return parameters_of(optimizer)

    assert_same(trained(evaluate=True), trained(evaluate=False))


def test_mode_changes_between_steps():
    """Starts and ends in graph mode."""
    weight = Parameter(Tensor(np.zeros(3), ms.float32), name="weight")
    optimizer = AdamOffload([weight], learning_rate=0.5)
    gradients = (Tensor(np.ones(3), ms.float32),)
    for expected in range(8, 13):
        ms.set_context(mode=list(MODES.values())[expected % 2])
        weight.set_data(Tensor(np.full(3, expected), ms.float32))
        optimizer(gradients)
        np.testing.assert_allclose(weight.asnumpy(), expected - 0.5, atol=1e-4)
