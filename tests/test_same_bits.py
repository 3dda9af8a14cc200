# SPDX-License-Identifier: Apache-2.0

"""The native host operation promises the same bits: instruction sets, threads, buckets, writebacks, and restarts."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from nets import assert_same
from schedules import DecayThatBeginsAtZero
from steps import DTYPES, restore, values

from mindspore_offload import AdamOffload, AdamWOffload, native_library
from mindspore_offload.states import buckets

# Several chunks of work, with tensors that end inside a chunk or span several, and single elements between them.
SIZES = [300_003, 1, 7, 131_073, 1, 200_001, 1031, 33]
KINDS = ["float32", "float32", "float16", "float16", "bfloat16", "bfloat16", "float32", "float32"]
DECAYS = [lambda: 0.01, lambda: 0.0, DecayThatBeginsAtZero, lambda: 0.0]  # of two parameters each
STEPS = 5

CASES = {
    "Adam": (AdamOffload, {"loss_scale": 512.0}),
    "Adam-clipped": (AdamOffload, {"max_grad_norm": 1.0, "use_nesterov": True, "skip_nonfinite": True}),
    "AdamW-clipped": (AdamWOffload, {"max_grad_norm": 1.0, "loss_scale": 512.0}),
    "bfloat16-moments": (AdamOffload, {"moment_dtype": ms.bfloat16, "max_grad_norm": 1e9}),
}


def new_optimizer(case, **arguments):
    random = np.random.default_rng(11)
    weights = [Tensor(random.standard_normal(size).astype(np.float32)) for size in SIZES]
    parameters = [Parameter(w.astype(DTYPES[kind]), name=f"w{i}") for i, (w, kind) in enumerate(zip(weights, KINDS))]
    order = [0, 2, 4, 1, 3, 5, 6, 7]  # so that each decay has parameters of two dtypes
    groups = [
        {"params": [parameters[i] for i in order[2 * k : 2 * k + 2]], "weight_decay": decay()}
        for k, decay in enumerate(DECAYS)
    ]
    optimizer_class, settings = CASES[case]
    return optimizer_class([*groups, {"order_params": parameters}], host_kernel="native", **settings, **arguments)


@pytest.fixture(scope="module")
def gradients():
    """Gradients of every magnitude, for each step."""
    random = np.random.default_rng(12)
    magnitudes = [[10.0 ** random.integers(-12, 12, size) for size in SIZES] for _ in range(STEPS)]
    return [tuple(Tensor((random.standard_normal(len(m)) * m).astype(np.float32)) for m in step) for step in magnitudes]


def end_state(optimizer, gradients):
    for step in gradients:
        optimizer(step)
    return values(optimizer)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def trained(case, gradients):
    """An optimizer, its values before the first step, and after the last one, which were computed with one thread."""
    library = native_library.load()
    threads = library.MindsporeOffloadThreads()
    library.MindsporeOffloadSetThreads(1)
    optimizer = new_optimizer(case)
    start = values(optimizer)
    end = end_state(optimizer, gradients)
    library.MindsporeOffloadSetThreads(threads)
    assert all(np.isfinite(value).all() for value in end.values())
    return optimizer, start, end


@pytest.fixture
def again(trained, gradients):
    """Trains the same optimizer again from its start. Its graph is compiled already."""

    def again():
        optimizer, start, _ = trained
        restore(optimizer, start)
        return end_state(optimizer, gradients)

    return again


@pytest.fixture
def expected(trained):
    return trained[2]


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads(threads, library, again, expected):
    library.MindsporeOffloadSetThreads(threads)
    assert library.MindsporeOffloadThreads() == threads
    assert_same(again(), expected)


@pytest.mark.usefixtures("isa")
def test_instruction_sets(again, expected):
    assert_same(again(), expected)


@pytest.mark.parametrize("limit", [1, 4 * 131_100], ids=["a-tensor-each", "several"])
def test_bucket_bounds(limit, case, gradients, expected, monkeypatch):
    """By default, one bucket holds all."""
    monkeypatch.setattr(buckets, "BUCKET_BYTES", limit)
    assert_same(end_state(new_optimizer(case), gradients), expected)


def test_writebacks(case, gradients, expected):
    assert_same(end_state(new_optimizer(case, writeback="assign"), gradients), expected)


def test_restart(trained, case, gradients, expected, tmp_path):
    optimizer, start, _ = trained
    restore(optimizer, start)
    end_state(optimizer, gradients[:2])
    ms.save_checkpoint(optimizer, str(tmp_path / "saved.ckpt"))
    restarted = new_optimizer(case)
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    assert ms.load_param_into_net(restarted, saved, strict_load=True) == ([], [])
    assert_same(end_state(restarted, gradients[2:]), expected)
