# SPDX-License-Identifier: Apache-2.0

"""Gradients that are the values of other parameters: MindSpore must not pass the memory of the parameters for them."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from nets import assert_same
from oracle import Oracle
from steps import PLACES, as_float32, restore, values

from mindspore_offload import AdamOffload
from mindspore_offload.states import buckets

STEPS = 3


def product(a, b):
    return (a * b).sum().astype(ms.float32)


def mean(a, b):
    return (a * b).mean()


def reshaped(a, b):
    return (a.reshape((10, -1)) * b.reshape((10, -1))).sum()


def expanded(a, b):
    return (a.expand_dims(0) * b.expand_dims(0)).sum()


def transposed(a, b):
    return (a.reshape((10, -1)).T * b.reshape((10, -1)).T).sum()


def sum_and_product(a, b):
    return (a + b).sum() + (a * b).sum()


def squares(a, b):
    return (a * a).sum() / 2 + (b * b).sum() / 2


def not_reduced(a, b):
    return a * b


# Losses of two parameters for which MindSpore makes the gradient of one from the memory of the other, the gradient of
# the first parameter, and the dtype of both.
PRODUCTS = [(product, lambda a, b: b, np.float32), (product, lambda a, b: b, np.float16)]
LOSSES = [
    *PRODUCTS,
    (mean, lambda a, b: b / b.size, np.float32),
    (expanded, lambda a, b: b, np.float32),
    (transposed, lambda a, b: b, np.float32),
    (squares, lambda a, b: a, np.float32),
]
# Right in one bucket of the native operation only. nn.Adam has the fault too.
ONE_BUCKET_LOSSES = [(reshaped, lambda a, b: b, np.float32), (sum_and_product, lambda a, b: b + 1, np.float32)]
NOT_REDUCED = [(not_reduced, lambda a, b: b, np.float32)]


class Pairs(nn.Cell):
    """The sum of several losses, each of two parameters."""

    def __init__(self, losses, size=1000):
        super().__init__()
        random = np.random.default_rng(0)
        weights = [random.standard_normal(size).astype(dtype) for *_, dtype in losses for _ in "ab"]
        self.parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
        self.first, self.second = tuple(self.parameters[::2]), tuple(self.parameters[1::2])
        self.losses = tuple(loss for loss, *_ in losses)
        self.size = len(losses)

    def construct(self):
        total = self.losses[0](self.first[0], self.second[0])
        for i in range(1, self.size):
            total = total + self.losses[i](self.first[i], self.second[i])
        return total


class OnlyOptimizer(nn.Cell):
    """Returns the optimizer's result alone, so that nothing but the updates needs the parameters."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.net, self.optimizer, self.parameters = net, optimizer, optimizer.parameters
        self.backward = ops.GradOperation(get_by_list=True)

    def construct(self):
        return self.optimizer(self.backward(self.net, self.parameters)())


class Given(nn.Cell):
    """Passes the parameters themselves as each other's gradients."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.gradients = tuple(net.parameters[i ^ 1] for i in range(len(net.parameters)))

    def construct(self):
        return self.optimizer(self.gradients)


def check(step_class, losses, settings, monkeypatch):
    settings = dict(settings)
    if settings.pop("bucket_each", False):
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)
    net = Pairs(losses)
    oracle = Oracle([parameter.asnumpy() for parameter in net.parameters], 0.1)
    step = step_class(net, AdamOffload(net.parameters, 0.1, **settings))
    for _ in range(STEPS):
        # A 16-bit parameter is what the others get as their gradient, but its master keeps the other bits.
        seen = [weight.astype(parameter.asnumpy().dtype) for weight, parameter in zip(oracle.weights, net.parameters)]
        gradients = []
        for i, (_, gradient, _) in enumerate(losses):
            gradients += [gradient(seen[2 * i], seen[2 * i + 1]), gradient(seen[2 * i + 1], seen[2 * i])]
        oracle.step(gradients)
        step()
    for parameter, expected in zip(net.parameters, oracle.weights):
        tolerance = 5e-3 if parameter.asnumpy().dtype == np.float16 else 1e-5
        np.testing.assert_allclose(as_float32(parameter), expected, atol=tolerance, err_msg=parameter.name)


ON_DEVICE = {"min_offload_size": 10**9}
BUCKET_EACH = {"bucket_each": True}
CLIPPED = {"max_grad_norm": 1e9}
full = pytest.mark.full


@pytest.mark.parametrize(
    ("step_class", "settings"),
    [
        (OnlyOptimizer, PLACES["native-in_place"]),
        (OnlyOptimizer, {**PLACES["native-in_place"], **BUCKET_EACH}),
        (OnlyOptimizer, PLACES["native-assign"]),
        (OnlyOptimizer, {**PLACES["native-assign"], **BUCKET_EACH}),
        (OnlyOptimizer, ON_DEVICE),
        (OnlyOptimizer, PLACES["stock-in_place"]),
        (OnlyOptimizer, PLACES["stock-assign"]),
        (nn.TrainOneStepCell, PLACES["native-in_place"]),
        (nn.TrainOneStepCell, {**PLACES["native-in_place"], **BUCKET_EACH, **CLIPPED}),
        (nn.TrainOneStepCell, {**PLACES["native-assign"], **CLIPPED}),
        pytest.param(nn.TrainOneStepCell, PLACES["native-assign"], marks=full),
        pytest.param(nn.TrainOneStepCell, {**PLACES["stock-in_place"], **CLIPPED}, marks=full),
        pytest.param(nn.TrainOneStepCell, {**PLACES["stock-assign"], **CLIPPED}, marks=full),
        pytest.param(nn.TrainOneStepCell, ON_DEVICE, marks=full),
        pytest.param(nn.TrainOneStepCell, {**PLACES["stock-in_place"], **BUCKET_EACH}, marks=full),
        pytest.param(nn.TrainOneStepCell, {**PLACES["stock-assign"], **BUCKET_EACH}, marks=full),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "-".join(map(str, value.values())),
)
def test_gradients_from_the_memory_of_the_other_parameter(step_class, settings, monkeypatch):
    is_one_bucket = settings.get("host_kernel") == "native" and "bucket_each" not in settings
    check(step_class, LOSSES + (ONE_BUCKET_LOSSES if is_one_bucket else []), settings, monkeypatch)


@pytest.mark.xfail(strict=True, reason="one update writes the memory that another one reads as its gradient")
@pytest.mark.parametrize("settings", [BUCKET_EACH, ON_DEVICE], ids=str)
def test_gradients_from_the_memory_of_a_parameter_in_another_update(settings, monkeypatch):
    check(OnlyOptimizer, ONE_BUCKET_LOSSES, settings, monkeypatch)


@pytest.mark.full
@pytest.mark.xfail(strict=True, reason="one update writes the memory that another one reads as its gradient")
@pytest.mark.parametrize("step_class", [OnlyOptimizer, nn.TrainOneStepCell])
@pytest.mark.parametrize("settings", [PLACES["stock-in_place"], ON_DEVICE], ids=str)
def test_a_loss_that_is_not_reduced_in_another_update(step_class, settings, monkeypatch):
    check(step_class, NOT_REDUCED, settings, monkeypatch)


@pytest.mark.parametrize("step_class", [OnlyOptimizer, pytest.param(nn.TrainOneStepCell, marks=full)])
@pytest.mark.parametrize(
    "settings",
    [
        PLACES["native-in_place"],
        PLACES["native-assign"],
        pytest.param(PLACES["stock-assign"], marks=full),
    ],
    ids=str,
)
def test_a_loss_that_is_not_reduced(step_class, settings, monkeypatch):
    check(step_class, NOT_REDUCED, settings, monkeypatch)


@pytest.mark.parametrize(
    "settings",
    [
        PLACES["native-in_place"],
        {**PLACES["native-in_place"], **BUCKET_EACH},
        PLACES["native-assign"],
        {**PLACES["native-assign"], **ON_DEVICE},
        PLACES["stock-in_place"],
        PLACES["stock-assign"],
        ON_DEVICE,
        pytest.param({**PLACES["native-assign"], **BUCKET_EACH}, marks=full),
        pytest.param({**PLACES["stock-in_place"], **BUCKET_EACH}, marks=full),
        pytest.param({**PLACES["stock-assign"], **BUCKET_EACH}, marks=full),
        pytest.param({**PLACES["stock-in_place"], **ON_DEVICE}, marks=full),
        pytest.param({**PLACES["stock-assign"], **ON_DEVICE}, marks=full),
    ],
    ids=str,
)
def test_parameters_given_as_gradients(settings, monkeypatch):
    check(Given, PRODUCTS, settings, monkeypatch)


def test_same_bits_in_every_run_and_for_every_number_of_threads(library):
    net = Pairs(PRODUCTS[:1], size=300_000)
    optimizer = AdamOffload(net.parameters, 0.1, host_kernel="native", writeback="in_place")
    step = nn.TrainOneStepCell(net, optimizer)
    start, ends = values(optimizer), []
    for threads in (1, 2, 2, 3):
        library.MindsporeOffloadSetThreads(threads)
        restore(optimizer, start)
        for _ in range(STEPS):
            step()
        ends.append(values(optimizer))
    for end in ends[1:]:
        assert_same(end, ends[0])
