# SPDX-License-Identifier: Apache-2.0

"""Semi-automatic and automatic parallel: states become slices, and what needs whole gradients is refused.

MindSpore trains in these modes only on accelerators; tests/second_memory has trainings.
"""

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Parameter, Tensor, context

from mindspore_offload import AdamOffload

MODES = ["semi_auto_parallel", "auto_parallel"]
NEED_WHOLE = {
    "max_grad_norm": (1.0, "None"),
    "skip_nonfinite": (True, "False"),
    "shard_states": (True, "False"),
    "moment_dtype": (ms.uint8, "Float32 or BFloat16"),
}
SHAPE, SLICE = (4, 6), (4, 3)


@pytest.fixture
def set_mode():
    """Sets a parallel mode for a test."""
    yield lambda mode: context.set_auto_parallel_context(parallel_mode=mode)
    context.reset_auto_parallel_context()


def new_optimizer(shape=SHAPE, dtype=np.float16, **arguments):
    weight = Parameter(Tensor(np.ones(shape, dtype)), name="weight")
    return AdamOffload([weight], host_kernel="native", writeback="assign", **arguments)


def states_of(optimizer):
    return [*optimizer.moment1, *optimizer.moment2, *optimizer.master]


@pytest.mark.parametrize("moment_dtype", [ms.float32, ms.bfloat16], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_state_becomes_the_slice_that_mindspore_cuts(mode, moment_dtype, set_mode):
    set_mode(mode)
    optimizer = new_optimizer(moment_dtype=moment_dtype)
    values = np.arange(12, dtype=np.float32).reshape(SLICE)
    for state in states_of(optimizer):
        dtype = state.dtype
        state.set_data(Tensor(values), slice_shape=True)
        assert (tuple(state.shape), state.dtype, state.sliced) == (SLICE, dtype, True), state.name
        np.testing.assert_array_equal(state.astype(ms.float32).asnumpy(), values, err_msg=state.name)


def test_a_slice_loads_a_slice_and_refuses_a_whole_state():
    moment = new_optimizer().moment1[0]
    moment.set_data(Tensor(np.zeros(SLICE, np.float32)), slice_shape=True)
    moment.set_data(Tensor(np.full(SLICE, 2, np.float32)))
    np.testing.assert_array_equal(moment.asnumpy(), 2)
    with pytest.raises(ValueError, match=r"must have its shape \(4, 3\), but got \(4, 6\)"):
        moment.set_data(Tensor(np.zeros(SHAPE, np.float32)))


@pytest.mark.parametrize("columns", [2048, 4096], ids=["cut", "whole"])
def test_slices_lie_in_one_block_whose_zeros_have_no_memory(columns):
    """MindSpore also sets a state that the ranks don't cut."""
    optimizer = new_optimizer((4096, 4096))
    zeros = Tensor(np.zeros((4096, columns), np.float32))
    before = psutil.Process().memory_info().rss
    for state in states_of(optimizer):
        state.set_data(zeros, slice_shape=True)
    assert psutil.Process().memory_info().rss - before < zeros.nbytes / 2
    starts = [state.memory.ctypes.data for state in states_of(optimizer)]
    gaps = [after - start - zeros.nbytes for start, after in zip(starts, starts[1:])]
    assert all(0 < gap < 2**20 for gap in gaps), gaps


@pytest.mark.parametrize(("argument", "value", "off"), [(k, *v) for k, v in NEED_WHOLE.items()], ids=NEED_WHOLE)
@pytest.mark.parametrize("mode", MODES)
def test_what_needs_whole_gradients_is_refused(mode, argument, value, off, set_mode):
    set_mode(mode)
    with pytest.raises(RuntimeError, match=rf"'{argument}' must be {off} in the parallel mode '{mode}'.*but got"):
        new_optimizer(**{argument: value})
