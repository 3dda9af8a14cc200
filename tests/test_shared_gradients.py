# SPDX-License-Identifier: Apache-2.0

"""Gradients that are the values of other parameters: MindSpore must not pass the memory of the parameters for them."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
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
def test_parameters_given_as_gradients(host_kernel, writeback, dtype, bucketing):
    start = values(1000, dtype)
    oracle = Oracle(start, 0.1)
    net = Product(*start)
    step = Given(net, AdamOffload(net.trainable_params(), 0.1, host_kernel=host_kernel, writeback=writeback))
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
