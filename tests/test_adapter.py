# SPDX-License-Identifier: Apache-2.0

"""The adapter to MindSpore, called as MindSpore calls it: a bad call gets an error code and writes nothing."""

import threading

import numpy as np
import pytest
from library_calls import GOOD, coefficients, launch

from mindspore_offload.abi import ROWS


def arguments(sizes=(5, 3)):
    """Inputs and output of a good call, in the order of the operation."""
    tensors = [np.full(size, value, np.float32) for value in (1, 0, 0, 0.5) for size in sizes]
    return [coefficients(), np.zeros((len(sizes), len(ROWS)), np.int32), *tensors, np.zeros(1, np.float32)]


def replaced(index, array):
    return lambda arrays: [*arrays[:index], array, *arrays[index + 1 :]]


BAD = {
    "no-arguments": lambda arrays: [],
    "one-missing": lambda arrays: arrays[:-1],
    "one-too-many": lambda arrays: [*arrays, arrays[-1]],
    "no-tensors": lambda arrays: [*arrays[:2], arrays[-1]],
    "coefficients-of-another-dtype": replaced(0, coefficients().astype(np.float64)),
    "coefficients-of-another-width": replaced(0, coefficients()[:, :-1].copy()),
    "rows-of-another-dtype": replaced(1, np.zeros((2, 4), np.int64)),
    "rows-of-another-width": replaced(1, np.zeros((2, 3), np.int32)),
    "too-few-rows": replaced(1, np.zeros((1, 4), np.int32)),
    "a-row-that-is-not-there": replaced(1, np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.int32)),
    "a-negative-row": replaced(1, np.array([[0, 0, 0, 0], [-1, 0, 0, 0]], np.int32)),
    "a-negative-piece": replaced(1, np.array([[0, 0, 0, 0], [0, 0, -1, 0]], np.int32)),
    "prepared-twice": replaced(1, np.array([[0, 0, 0, 0], [0, 0, 0, 2]], np.int32)),
    "moments-of-two-dtypes": replaced(5, np.zeros(3, np.float16)),
    "a-parameter-of-another-dtype": replaced(3, np.ones(3, np.float16)),
    "a-shorter-moment": replaced(5, np.zeros(2, np.float32)),
    "a-longer-gradient": replaced(9, np.zeros(4, np.float32)),
    "an-integer-gradient": replaced(9, np.zeros(3, np.int32)),
    "an-empty-parameter": replaced(3, np.zeros(0, np.float32)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_call_writes_nothing(case):
    arrays = BAD[case](arguments())
    before = [array.copy() for array in arrays]
    assert launch(arrays) != GOOD
    for array, value in zip(arrays, before):
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("null", range(10))
def test_a_null_pointer_is_refused(null):
    arrays = arguments()
    before = [array.copy() for array in arrays]
    assert launch(arrays, null) != GOOD
    for array, value in zip(arrays, before):
        np.testing.assert_array_equal(array, value)


def test_a_good_call_updates_every_element():
    arrays = arguments()
    assert launch(arrays) == GOOD
    for parameter in arrays[2:4]:
        np.testing.assert_allclose(parameter, 1 - 0.1 * 0.05 / np.sqrt(0.001 * 0.25), rtol=1e-4)


def test_two_threads_take_turns():
    """Both update the same tensors, each with a learning rate of its own: every element has seen the same order."""
    arrays = arguments(sizes=(300_000,))
    steps = 50

    def run(rate):
        own = [coefficients(learning_rate=rate), *arrays[1:]]
        for _ in range(steps):
            assert launch(own) == GOOD

    threads = [threading.Thread(target=run, args=(rate,)) for rate in (0.1, 0.2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for array in arrays[2:5]:
        assert len(np.unique(array)) == 1
    expected = 0.5 * (1 - 0.9 ** (2 * steps))
    assert arrays[3][0] == pytest.approx(expected, rel=1e-5)
