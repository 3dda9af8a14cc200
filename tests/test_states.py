# SPDX-License-Identifier: Apache-2.0

"""The states: names, types, memory, buckets, and their relation to the parameter in MindSpore."""

import re
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload, states
from mindspore_offload.distributed import ranks
from mindspore_offload.states import buckets


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
    arguments = ms.float32, ranks.ALONE, 0, 0, False, False
    tensors = [states.allocate(parameter, *arguments) for parameter in parameters]
    cut = buckets.cut(tensors, limit=8 * 4)
    assert [(bucket.start, bucket.stop) for bucket in cut] == expected
    for bucket in cut:
        assert bucket.slots == tuple(tensors[bucket.start : bucket.stop])


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


@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16], ids=str)
def test_a_state_equals_its_own_shape_and_dtype_only(dtype):
    """A loader may bring others, but whoever asks a state gets the truth."""
    optimizer = AdamOffload(parameters_of_sizes([2**15, 3]), moment_dtype=dtype)
    for moment in optimizer.moment1:
        for other in (ms.float16, ms.float32, ms.bfloat16):
            assert (moment.dtype == other) == (moment.dtype in {other}) == (other is dtype)
    assert [tuple(moment.shape) for moment in optimizer.moment1] == [(2**15,), (3,)]
    assert optimizer.moment1[0].shape not in {(7,), (), (2**14,)}
    assert optimizer.beta1_power.shape == (1,) != ()
    assert type(optimizer.moment1[0]) is type(optimizer.moment2[1]) is type(optimizer.beta1_power)


def test_what_a_loader_sees_of_a_state_shares_its_memory():
    optimizer = AdamOffload(parameters_of_sizes([3]))
    seen = optimizer.moment1[0].data
    optimizer((Tensor(np.ones(3, np.float32)),))
    np.testing.assert_array_equal(seen.asnumpy(), optimizer.moment1[0].asnumpy())
    assert seen.asnumpy().all()


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
def test_large_states_of_a_parameter_do_not_share_cache_hashes(size):
    """The states begin at different offsets in a page, and their hashes rarely agree during an update.

    Without this layout, states that are 256 MiB apart would always share the hash.
    """
    parameter = Parameter(Tensor(np.zeros(size, np.float16)), name="weight")
    optimizer = AdamOffload([parameter])
    # Before MindSpore 2.9, data_ptr() is 0 before the first step.
    starts = [state.memory.ctypes.data for state in (optimizer.moment1[0], optimizer.moment2[0], optimizer.master[0])]
    assert len({start % 4096 for start in starts}) == 3
    walk = [[zen_hash(start + offset) for start in starts] for offset in range(0, 4 * size, 4096)]
    assert np.mean([len(set(hashes)) == 3 for hashes in walk]) > 0.95


def zen_hash(address):
    """Lipp et al., "Take A Way: Exploring the Security Implications of AMD's Cache Way Predictors", section 3."""
    pairs = [(12, 27), (13, 26), (14, 25), (15, 20), (16, 21), (17, 22), (18, 23), (19, 24)]
    return sum(((address >> low ^ address >> high) & 1) << i for i, (low, high) in enumerate(pairs))


def huge_bytes(parameter):
    """Returns how many bytes of a parameter's memory mapping are in huge pages."""
    address = parameter.data_ptr()
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", mapping)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            return int(re.search(r"AnonHugePages: *(\d+) kB", mapping)[1]) * 1024
    raise AssertionError("no mapping holds the parameter")


def load_checkpoint(optimizer, values):
    ms.save_checkpoint([{"name": name, "data": value} for name, value in values.items()], "saved.ckpt")
    ms.load_checkpoint("saved.ckpt", net=optimizer, strict_load=True)


def set_each(optimizer, values):
    for state in optimizer.get_parameters():
        state.set_data(values[state.name])


def assign_each(optimizer, values):
    for state in optimizer.get_parameters():
        state.assign_value(values[state.name])


LOADS = {
    "load_param_into_net": lambda optimizer, values: ms.load_param_into_net(
        optimizer, {name: Parameter(value, name=name) for name, value in values.items()}, strict_load=True
    ),
    "load_checkpoint": load_checkpoint,
    "set_data": set_each,
    "assign_value": assign_each,
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_loading_keeps_the_memory_of_states(load):
    """After a resume, a step walks through the same huge pages at the same distances as before."""
    size = 4 * 2**20
    parameter = Parameter(Tensor(np.ones(size, np.float16)), name="weight")
    optimizer = AdamOffload([parameter])
    gradient = Tensor(np.ones(size, np.float32))
    optimizer((gradient,))
    states = [optimizer.moment1[0], optimizer.moment2[0], optimizer.master[0], optimizer.beta1_power]
    addresses = [state.data_ptr() for state in states]
    # The mapping may be merged with one of another tensor, and has half a huge page at each end.
    in_huge_pages = min(huge_bytes(states[0]), states[0].nbytes - 2 * 2**21)
    values = {
        p.name: Tensor(np.asarray(p.asnumpy()) + np.ones((), p.asnumpy().dtype)) for p in optimizer.get_parameters()
    }
    load(optimizer, values)
    for state in states:
        np.testing.assert_array_equal(state.asnumpy(), values[state.name].asnumpy())
    optimizer((gradient,))
    assert [state.data_ptr() for state in states] == addresses
    assert huge_bytes(states[0]) >= in_huge_pages
    # The step has read the loaded values and updated the same state.
    np.testing.assert_allclose(states[0].asnumpy()[:3], 0.9 * values["moment1.weight"].asnumpy()[:3] + 0.1, rtol=1e-6)


def test_a_state_refuses_another_shape():
    moment = AdamOffload(parameters_of_sizes([3])).moment1[0]
    for load in (moment.set_data, moment.assign_value):
        message = (
            r"'moment1.weight0'.* must have its shape \(3,\), but got \(4,\).* make the net and the optimizer anew"
        )
        with pytest.raises(ValueError, match=message):
            load(Tensor(np.ones(4, np.float32)))
    assert not moment.asnumpy().any()


def test_states_are_clones_as_in_nn_adam():
    """Semi-automatic parallelism slices the clones of a parameter in the same way as the parameter."""

    def clones_of(optimizer_class, dtype):
        parameter = Parameter(
            Tensor(np.ones((3, 2)), dtype), name="weight", layerwise_parallel=True, parallel_optimizer=False
        )
        parameter.comm_fusion = 3
        _optimizer = optimizer_class([parameter])  # its end would be that of the clones, too
        fields = ("name", "layerwise_parallel", "parallel_optimizer", "comm_fusion", "requires_grad", "requires_aggr")
        return {
            clone.name: {field: getattr(clone.param_info, field) for field in fields}
            | {"obj": clone.param_info.obj is clone}
            for clone in parameter.param_info.cloned_obj
        }

    ours = clones_of(AdamOffload, ms.float16)
    assert ours.pop("master.weight") == {**ours["moment1.weight"], "name": "master.weight"}
    assert ours == clones_of(nn.Adam, ms.float16)
    assert ours.keys() == {"moment1.weight", "moment2.weight"}
