"""The states: their names and types, their memory, and how they are cut into buckets."""

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Parameter, Tensor

from mindspore_offload import AdamOffload, state


def parameters_of_sizes(sizes):
    return [Parameter(Tensor(np.zeros(size, np.float32)), name=f"weight{i}") for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1], [(0, 1)]),
        ([4, 4, 4], [(1, 3), (0, 1)]),
        ([4, 5, 4], [(2, 3), (1, 2), (0, 1)]),
        ([1, 2, 3, 4], [(2, 4), (0, 2)]),
        ([1, 100, 1], [(2, 3), (1, 2), (0, 1)]),
        ([100, 100], [(1, 2), (0, 1)]),
        ([8, 8], [(1, 2), (0, 1)]),
    ],
    ids=str,
)
def test_buckets_are_bounded_and_last_first(sizes, expected):
    parameters = parameters_of_sizes(sizes)
    tensors = [(parameter, parameter, None, None, row, False) for row, parameter in enumerate(parameters)]
    buckets = state.buckets(tensors, limit=8 * 4)
    assert [(bucket.start, bucket.stop) for bucket in buckets] == expected
    for bucket in buckets:
        assert bucket.parameters == tuple(parameters[bucket.start : bucket.stop])
        assert bucket.rows == tuple(range(bucket.start, bucket.stop))


def test_names_shapes_and_types():
    optimizer = AdamOffload(parameters_of_sizes([3, 5]))
    states = {
        parameter.name: (parameter.shape, parameter.dtype)
        for parameter in optimizer.get_parameters()
        if parameter.name not in ("weight0", "weight1")
    }
    single = ms.float32
    assert states == {
        "global_step": ((1,), ms.int32),
        "learning_rate": ((), single),
        "beta1_power": ((1,), single),
        "beta2_power": ((1,), single),
        "moment1.weight0": ((3,), single),
        "moment1.weight1": ((5,), single),
        "moment2.weight0": ((3,), single),
        "moment2.weight1": ((5,), single),
    }


def test_states_have_no_memory_before_the_first_step():
    """64 MB of parameters: their two moments would be 128 MB."""
    parameters = parameters_of_sizes([4 * 2**20] * 4)
    process = psutil.Process()
    before = process.memory_info().rss
    optimizer = AdamOffload(parameters)
    grown = process.memory_info().rss - before
    assert sum(moment.nbytes for moment in (*optimizer.moment1, *optimizer.moment2)) == 128 * 2**20
    assert grown < 16 * 2**20
    assert not optimizer.moment1[0].asnumpy().any()


@pytest.mark.parametrize("size", [2**20, 2**25 - 2**14, 3 * 2**20 + 7, 2**26], ids=str)
def test_large_states_of_a_parameter_are_told_apart_by_caches(size):
    """They begin at different places of a page, and while an update walks through them, their hashes rarely agree.

    Where nothing is done about it, those of states that are 256 MiB apart always do.
    """
    parameter = Parameter(Tensor(np.zeros(size, np.float16)), name="weight")
    optimizer = AdamOffload([parameter])
    starts = [state.data_ptr() for state in (optimizer.moment1[0], optimizer.moment2[0], optimizer.master[0])]
    assert len({start % 4096 for start in starts}) == 3
    walk = [[zen_hash(start + offset) for start in starts] for offset in range(0, 4 * size, 4096)]
    assert np.mean([len(set(hashes)) == 3 for hashes in walk]) > 0.95


def zen_hash(address):
    """Lipp et al., "Take A Way: Exploring the Security Implications of AMD's Cache Way Predictors", section 3."""
    pairs = [(12, 27), (13, 26), (14, 25), (15, 20), (16, 21), (17, 22), (18, 23), (19, 24)]
    return sum(((address >> low ^ address >> high) & 1) << i for i, (low, high) in enumerate(pairs))
