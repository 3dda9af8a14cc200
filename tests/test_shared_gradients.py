# SPDX-License-Identifier: Apache-2.0

"""Gradients that are the values of other parameters: MindSpore must not pass the memory of the parameters for them."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from oracle import Oracle

from mindspore_offload import AdamOffload, native_library
from mindspore_offload.states import buckets

STEPS = 3


class Product(nn.Cell):
    """The gradient of `a` is `b`, and that of `b` is `a`."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = Parameter(Tensor(a), name="a"), Parameter(Tensor(b), name="b")

    def construct(self):
        return (self.a * self.b).sum()


def values(size, dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size).astype(dtype) for _ in range(2)]


def train(start, **arguments):
    net = Product(*start)
    step = nn.TrainOneStepCell(net, AdamOffload(net.trainable_params(), 0.1, **arguments))
    for _ in range(STEPS):
        step()
    return [parameter.asnumpy() for parameter in (net.a, net.b)]


@pytest.fixture(params=["one-bucket", "bucket-each"])
def bucketing(request, monkeypatch):
    if request.param == "bucket-each":
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)


@pytest.mark.parametrize("arguments", [{}, {"max_grad_norm": 1e9}, {"min_offload_size": 10**9}], ids=str)
@pytest.mark.parametrize("writeback", ["in_place", "assign"])
def test_each_gradient_is_the_other_parameter_before_the_step(host_kernel, writeback, arguments, bucketing):
    start = values(1000, np.float32)
    oracle = Oracle(start, 0.1)
    for _ in range(STEPS):
        oracle.step(oracle.weights[::-1])
    trained = train(start, host_kernel=host_kernel, writeback=writeback, **arguments)
    np.testing.assert_allclose(trained, oracle.weights, atol=1e-5)


class Given(nn.Cell):
    """Passes the parameters themselves as each other's gradients."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.a, self.b, self.optimizer = net.a, net.b, optimizer

    def construct(self):
        return self.optimizer((self.b, self.a))


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("writeback", ["in_place", "assign"])
@pytest.mark.parametrize("small", [0, 10**9], ids=["on-host", "on-device"])
def test_parameters_given_as_gradients(host_kernel, small, writeback, dtype, bucketing):
    start = values(1000, dtype)
    oracle = Oracle(start, 0.1)
    net = Product(*start)
    arguments = {"host_kernel": host_kernel, "writeback": writeback, "min_offload_size": small}
    step = Given(net, AdamOffload(net.trainable_params(), 0.1, **arguments))
    for _ in range(STEPS):
        oracle.step([weight.astype(dtype) for weight in oracle.weights[::-1]])
        step()
    trained = [net.a.asnumpy(), net.b.asnumpy()]
    np.testing.assert_allclose(trained, oracle.weights, atol=1e-5 if dtype == np.float32 else 5e-3)


@pytest.mark.parametrize("writeback", ["in_place", "assign"])
def test_each_gradient_is_the_other_16_bit_parameter(host_kernel, writeback, bucketing):
    start = values(1000, np.float16)
    oracle = Oracle(start, 0.1)
    for _ in range(STEPS):
        oracle.step([weight.astype(np.float16) for weight in oracle.weights[::-1]])
    trained = train(start, host_kernel=host_kernel, writeback=writeback)
    np.testing.assert_allclose(trained, oracle.weights, atol=5e-3)


class Loss(Product):
    """Losses for which MindSpore makes a gradient of one parameter from the memory of another."""

    def __init__(self, a, b, kind):
        super().__init__(a, b)
        self.kind = kind

    def construct(self):
        a, b = self.a, self.b
        if self.kind == "mean":
            return (a * b).mean()
        if self.kind == "reshaped":
            return (a.reshape((10, -1)) * b.reshape((10, -1))).sum()
        if self.kind == "expanded":
            return (a.expand_dims(0) * b.expand_dims(0)).sum()
        if self.kind == "transposed":
            return (a.reshape((10, -1)).T * b.reshape((10, -1)).T).sum()
        if self.kind == "sum-and-product":
            return (a + b).sum() + (a * b).sum()
        if self.kind == "squares":
            return (a * a).sum() / 2 + (b * b).sum() / 2
        return a * b  # not reduced


# The gradient of the first parameter.
GRADIENTS = {
    "product": lambda a, b: b,
    "mean": lambda a, b: b / b.size,
    "reshaped": lambda a, b: b,
    "expanded": lambda a, b: b,
    "transposed": lambda a, b: b,
    "sum-and-product": lambda a, b: b + 1,
    "squares": lambda a, b: a,
}


class OnlyOptimizer(nn.Cell):
    """Returns the optimizer's result alone, so that nothing but the updates needs the parameters."""

    def __init__(self, net, optimizer):
        super().__init__(auto_prefix=False)
        self.net, self.optimizer, self.parameters = net, optimizer, optimizer.parameters
        self.backward = ops.GradOperation(get_by_list=True)

    def construct(self):
        return self.optimizer(self.backward(self.net, self.parameters)())


@pytest.mark.parametrize("writeback", ["in_place", "assign"])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_gradients_from_the_memory_of_the_other_parameter(kind, writeback):
    gradient = GRADIENTS[kind]
    start = values(1000, np.float32)
    oracle = Oracle(start, 0.1)
    net = Loss(*start, kind)
    step = OnlyOptimizer(net, AdamOffload(net.trainable_params(), 0.1, host_kernel="native", writeback=writeback))
    for _ in range(STEPS):
        a, b = oracle.weights
        oracle.step([gradient(a, b), gradient(b, a)])
        step()
    np.testing.assert_allclose([net.a.asnumpy(), net.b.asnumpy()], oracle.weights, atol=1e-5)


def test_same_bits_in_every_run_and_for_every_number_of_threads():
    library = native_library.load()
    start = values(300_000, np.float32)
    before = library.MindsporeOffloadThreads()
    try:
        results = []
        for threads in (1, 2, 2, 3):
            library.MindsporeOffloadSetThreads(threads)
            results += [train(start, host_kernel="native", writeback="in_place")]
    finally:
        library.MindsporeOffloadSetThreads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
