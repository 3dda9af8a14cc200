# SPDX-License-Identifier: Apache-2.0

"""An optimizer is a Cell: hooks, subclasses and settings work as with `nn.Adam`, or are refused in words."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from nets import copy_weights

from mindspore_offload import AdamOffload

WEIGHT = np.array([[1.0, 2.0, 4.0], [-3.0, 5.0, 0.5]], np.float32)
INPUTS = Tensor(np.array([[0.1, -0.2, 0.3], [0.3, 0.1, -0.1]], np.float32))


class Net(nn.Cell):
    """Its gradients are a transposed view, and the parts of one tensor."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(WEIGHT), name="weight")
        self.first, self.second = (Parameter(Tensor(np.ones(2, np.float32)), name=name) for name in ("first", "second"))

    def construct(self, x):
        return (ops.matmul(x, self.weight.T) ** 2).sum() + (ops.concat((self.first, self.second)) ** 3).sum()


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)
    return request.param


def assert_trains_as_adam(train):
    """Checks that `train`, called with a class of optimizers, returns a net with the same weights as for `nn.Adam`."""
    expected, actual = train(nn.Adam), train(AdamOffload)
    for theirs, ours in zip(expected.trainable_params(), actual.trainable_params()):
        np.testing.assert_allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-6, err_msg=ours.name)
    assert np.abs(expected.weight.asnumpy() - WEIGHT).max() > 0.1


@pytest.mark.newest("2.7 does not tell the first part of a tensor from a whole one, and then refuses it")
def test_gradients_that_are_views_of_other_tensors(mode):
    def train(optimizer_class):
        net = Net()
        optimizer = optimizer_class(net.trainable_params(), 0.1)
        for _ in range(2):
            _, gradients = ms.value_and_grad(net, None, optimizer.parameters)(INPUTS)
            optimizer(gradients)
        return net

    assert_trains_as_adam(train)


FIRST = pytest.param(0, marks=pytest.mark.newest("as above"), id="first")


@pytest.mark.parametrize("begin", [FIRST, pytest.param(1, id="with-offset")])
def test_gradients_that_are_parts_of_a_tensor(begin, mode):
    parts = Tensor(np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3))
    optimizer = AdamOffload([Parameter(Tensor(WEIGHT), name="weight")])
    optimizer((parts[begin : begin + 2],))
    expected = np.float32(0.1) * parts.asnumpy()[begin : begin + 2]
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), expected, rtol=1e-6)


def doubled_below_zero(cell, inputs):
    return (tuple(ops.select(gradient < 0, gradient * 2, gradient) for gradient in inputs[0]),)


@pytest.mark.parametrize("is_called_by_a_cell", [False, True], ids=["direct", "in-a-training-cell"])
def test_a_hook_before_the_step_changes_gradients(is_called_by_a_cell, mode):
    """Adam cancels a constant factor, so this one depends on the sign."""
    gradients = tuple(Tensor(np.linspace(-1, 1, p.size).reshape(p.shape), ms.float32) for p in Net().trainable_params())

    def train(optimizer_class):
        net = Net()
        optimizer = optimizer_class(net.trainable_params(), 0.1)
        optimizer.register_forward_pre_hook(doubled_below_zero)
        step = nn.TrainOneStepCell(net, optimizer)
        for sign in (1, -1):
            if is_called_by_a_cell:
                step(sign * INPUTS)
            else:
                optimizer(tuple(sign * gradient for gradient in gradients))
        return net

    assert_trains_as_adam(train)


def test_a_hook_after_the_step_runs_each_time():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    weight, seen = Parameter(Tensor(WEIGHT), name="weight"), []
    optimizer = AdamOffload([weight], 0.1)
    hook = optimizer.register_forward_hook(
        lambda cell, inputs, output: seen.append((len(inputs), weight.asnumpy()[0, 0]))
    )
    for _ in range(2):
        optimizer((Tensor(np.ones_like(WEIGHT)),))
    hook.remove()
    optimizer((Tensor(np.ones_like(WEIGHT)),))
    assert [count for count, _ in seen] == [1, 1]
    np.testing.assert_allclose([value for _, value in seen], [0.9, 0.8], rtol=1e-6)


class Centralized(AdamOffload):
    def construct(self, gradients):
        centralized = ()
        for gradient in gradients:
            centralized += (gradient - gradient.mean(),)
        return super().construct(centralized)


class CentralizedAdam(nn.Adam):
    construct = Centralized.construct


@pytest.mark.parametrize("is_called_by_a_cell", [False, True], ids=["direct", "in-a-training-cell"])
def test_a_subclass_with_a_construct_of_its_own(is_called_by_a_cell, mode):
    gradients = [
        np.array([[1.0, 5.0, -2.0], [8.0, 0.5, 3.0]], np.float32),
        np.array([[-3.0, 1.0, 2.0], [4.0, 7.0, 1.0]], np.float32),
    ]
    weight, plain = (Parameter(Tensor(WEIGHT), name="weight") for _ in range(2))
    optimizer, expected = Centralized([weight], 0.1), AdamOffload([plain], 0.1)

    class Product(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def construct(self, x):
            return (self.weight * x).sum()

    step = nn.TrainOneStepCell(Product(), optimizer)
    for gradient in gradients:
        step(Tensor(gradient)) if is_called_by_a_cell else optimizer((Tensor(gradient),))
        expected((Tensor(gradient - gradient.mean()),))
    np.testing.assert_allclose(weight.asnumpy(), plain.asnumpy(), rtol=1e-6)
    np.testing.assert_allclose(optimizer.moment1[0].asnumpy(), expected.moment1[0].asnumpy(), rtol=1e-5)


@pytest.mark.parametrize(("name", "cure"), [("get_lr", "LearningRateSchedule"), ("decay_weight", "construct")])
def test_a_subclass_with_a_method_that_no_step_calls(name, cure):
    with pytest.raises(TypeError, match=f"'Changed', the method '{name}' must be that of nn.Optimizer.*{cure}"):
        type("Changed", (AdamOffload,), {name: lambda self: None})


SETTINGS = {
    "fp16-flag": lambda optimizer: optimizer.add_flags(fp16=True),
    "to_float": lambda optimizer: optimizer.to_float(ms.float16),
    "mixed-precision-O3": lambda optimizer: ms.amp.auto_mixed_precision(optimizer, "O3"),
    "recompute": lambda optimizer: optimizer.recompute(),
    "set_grad": lambda optimizer: optimizer.set_grad(),
    "set_inputs": lambda optimizer: optimizer.set_inputs((Tensor(np.ones_like(WEIGHT)),)),
    "set_train": lambda optimizer: optimizer.set_train(),
    "prefix": lambda optimizer: optimizer.update_parameters_name("student."),
}


def test_settings_of_a_cell_change_no_bit():
    """With the settings for mixed precision, `nn.Adam` trains nothing, in silence."""
    gradient = (Tensor(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)),)
    results = {}
    for name, change in {"plain": lambda optimizer: None, **SETTINGS}.items():
        optimizer = AdamOffload([Parameter(Tensor(WEIGHT), name="weight")], 0.1)
        change(optimizer)
        optimizer(gradient)
        results[name] = optimizer.parameters[0].asnumpy().tobytes()
    assert results == dict.fromkeys(results, results["plain"])
    assert results["plain"] != WEIGHT.tobytes()


def test_mixed_precision_over_a_whole_training_cell(mode):
    """`nn.Adam` trains nothing then, and `nn.AdamOffload` does not compile."""
    targets, nets = Tensor([0, 2], ms.int32), [nn.Dense(3, 4), nn.Dense(3, 4)]
    copy_weights(*nets)
    steps = [
        nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), AdamOffload(net.trainable_params(), 0.1))
        for net in nets
    ]
    ms.amp.auto_mixed_precision(steps[1], "O3")
    losses = [[float(step(INPUTS, targets).asnumpy()) for _ in range(3)] for step in steps]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    assert losses[0][2] < 0.9 * losses[0][0]


def test_the_state_dict_of_a_training_cell_names_each_state_once():
    net = Net()
    step = nn.TrainOneStepCell(net, AdamOffload(net.trainable_params()))
    names = {name.removeprefix("optimizer.") for name in step.state_dict() if name.startswith("optimizer.")}
    assert names == {parameter.name for parameter in step.optimizer.get_parameters()}
