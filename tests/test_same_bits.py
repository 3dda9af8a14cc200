# SPDX-License-Identifier: Apache-2.0

"""The native host operation promises the same bits for any instruction set, number of threads and bucket bound."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from nets import assert_same, parameters_of

from mindspore_offload import AdamOffload, native_library
from mindspore_offload.states import buckets

# Several chunks of work, with tensors that end inside a chunk or span several, and single elements between them.
SIZES = [300_003, 1, 7, 131_073, 1, 200_001]
STEPS = 5


def end_state():
    """Returns weights and states after a few steps with decay, loss scale and gradients of every magnitude."""
    random = np.random.default_rng(11)
    weights = [random.standard_normal(size).astype(np.float32) for size in SIZES]
    parameters = [Parameter(Tensor(weight), name=f"weight{i}") for i, weight in enumerate(weights)]
    optimizer = AdamOffload(parameters, weight_decay=0.01, loss_scale=512.0, host_kernel="native")
    for _ in range(STEPS):
        magnitudes = [10.0 ** random.integers(-12, 12, size) for size in SIZES]
        optimizer(tuple(Tensor((random.standard_normal(len(m)) * m).astype(np.float32)) for m in magnitudes))
    return parameters_of(optimizer)


@pytest.fixture(scope="module")
def library():
    return native_library.load()


@pytest.fixture(scope="module")
def expected(library):
    before = library.MindsporeOffloadThreads()
    library.MindsporeOffloadSetThreads(1)
    yield end_state()
    library.MindsporeOffloadSetThreads(before)


def test_a_run_repeats(expected):
    assert_same(end_state(), expected)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(threads, library, expected):
    library.MindsporeOffloadSetThreads(threads)
    assert library.MindsporeOffloadThreads() == threads
    assert_same(end_state(), expected)


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_instruction_sets(isa, library, expected):
    if isa not in library.MindsporeOffloadSupportedIsas().decode().split():
        pytest.skip(f"this machine does not run {isa}")
    before = library.MindsporeOffloadIsa()
    assert library.MindsporeOffloadSetIsa(isa.encode())
    assert library.MindsporeOffloadIsa() == isa.encode()
    assert_same(end_state(), expected)
    library.MindsporeOffloadSetIsa(before)


@pytest.mark.parametrize("limit", [1, 4 * 131_100, 2**30], ids=["a-tensor-each", "several", "one-for-all"])
def test_bucket_bounds(limit, expected, monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_BYTES", limit)
    assert_same(end_state(), expected)
