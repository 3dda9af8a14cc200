# SPDX-License-Identifier: Apache-2.0

"""Random calls of the adapter: a good one computes Adam, a broken one returns an error and writes nothing.

`make fuzz` makes more of them.
"""

import mindspore as ms
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from library_calls import GOOD, call, coefficients
from moment_values import assert_stored, decoded
from oracle import Oracle, assert_agrees
from rounding import from_bits, rounded, to_bits

from mindspore_offload.abi import ROWS

TYPES = ("float32", "float16", "bfloat16")
MOMENT_TYPES = ("float32", "bfloat16", "uint8")


class Call:
    """A good call of one of the two functions for some parameters, and what it has to compute."""

    def __init__(self, function, tensors, seed, nesterov, decay):
        random = np.random.default_rng(seed)
        self.function = function
        sizes, self.kinds, gradient_types, self.moment_types = (list(column) for column in zip(*tensors))
        weights = [random.standard_normal(size).astype(np.float32) for size in sizes]
        gradients = [
            to_bits(random.standard_normal(size).astype(np.float32), g) for size, g in zip(sizes, gradient_types)
        ]
        self.parameters = [to_bits(weight, kind) for weight, kind in zip(weights, self.kinds)]
        halves = [i for i, kind in enumerate(self.kinds) if kind != "float32"]
        self.moment1 = [zeros(size, kind) for size, kind in zip(sizes, self.moment_types)]
        self.moment2 = [moment.copy() for moment in self.moment1]
        # Zeros, except where the parameter rounds to zero: the first step makes the parameter its master.
        self.masters = [np.zeros(sizes[i], np.float32) for i in halves]
        # The device adds the decay to what AdamAssign gets.
        weight_decay = 0.01 if decay and function == "AdamInPlace" else 0.0
        self.oracle = Oracle(
            [from_bits(p, kind) for p, kind in zip(self.parameters, self.kinds)],
            learning_rate=0.1,
            use_nesterov=nesterov,
            weight_decay=weight_decay,
        )
        self.oracle.step([from_bits(g, kind) for g, kind in zip(gradients, gradient_types)])

        row = coefficients(
            learning_rate=self.oracle.rate(0), weight_decay=weight_decay, nesterov=nesterov, step=random.integers(2**24)
        )
        # Keys and pieces matter to the rounding of moments only.
        rows = np.zeros((len(tensors), len(ROWS)), np.int32)
        rows[:, 1] = random.integers(-(2**31), 2**31, len(tensors))
        rows[:, 2] = random.integers(0, 2**31, len(tensors))
        self.results = [np.zeros_like(p) for p in self.parameters]
        in_place = function == "AdamInPlace"
        read = [i for i, kind in enumerate(self.kinds) if in_place or kind != "float32"]
        self.arrays = [row, rows, *[self.parameters[i] for i in read], *self.moment1, *self.moment2, *gradients]
        types = [*[self.kinds[i] for i in read], *self.moment_types, *self.moment_types, *gradient_types]
        self.arrays += [*self.masters, *([np.zeros(1, np.float32)] if in_place else self.results)]
        types += [*["float32"] * len(halves), *(["float32"] if in_place else self.kinds)]
        self.types = ["float32", "int32", *types]
        self.shapes = [list(array.shape) for array in self.arrays]
        self.pointers = [array.ctypes.data for array in self.arrays]

    def launch(self):
        return call(self.function, self.pointers, self.shapes, self.types)

    def check(self):
        masters = iter(self.masters)
        weights = []
        for i, kind in enumerate(self.kinds):
            result = self.results[i] if self.function == "AdamAssign" else self.parameters[i]
            if kind == "float32":
                weights.append(result if self.function == "AdamInPlace" else self.parameters[i] + result)
            else:
                weights.append(next(masters))
                np.testing.assert_array_equal(from_bits(result, kind), rounded(weights[-1], getattr(ms, kind)))
        assert_agrees(self.oracle, weights, self.exact_moments("moment1"), self.exact_moments("moment2"))

    def exact_moments(self, kind):
        """The float32 moments as they are. A rounded moment is a neighbour of the exact one, which stands for it."""
        result = []
        for moment, expected, dtype in zip(getattr(self, kind), getattr(self.oracle, kind), self.moment_types):
            if dtype != "float32":
                found = decoded(moment, kind)[: len(expected)] if dtype == "uint8" else from_bits(moment, dtype)
                assert_stored(found, expected, dtype, kind)
            result.append(moment if dtype == "float32" else expected)
        return result


def zeros(size, moment_type):
    """Returns a moment of zeros: an array, or rows of 256 codes with a scale."""
    if moment_type == "uint8":
        return np.zeros((-(-size // 256), 260), np.uint8)
    return to_bits(np.zeros(size, np.float32), moment_type)


calls = st.builds(
    Call,
    st.sampled_from(["AdamInPlace", "AdamAssign"]),
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 40), st.integers(250, 520)),
            st.sampled_from(TYPES),
            st.sampled_from(TYPES),
            st.sampled_from(MOMENT_TYPES),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.booleans(),
)


@given(calls)
def test_good_calls_compute_adam(call):
    assert call.launch() == GOOD
    call.check()


def is_token(call, index):
    return call.function == "AdamInPlace" and index == len(call.arrays) - 1


WAYS = ["type", "no-type", "pointer", "size", "huge", "negative", "row", "drop", "repeat"]


@given(calls, st.data())
def test_broken_calls_write_nothing(call, data):
    """Broken in one place, in a way that no good call can look like."""
    index = data.draw(st.integers(0, len(call.arrays) - 1).filter(lambda i: not is_token(call, i)))
    # With a 16-bit parameter, one argument less or more can be a good call for other parameters.
    can_count = all(kind == "float32" for kind in call.kinds)
    how = data.draw(st.sampled_from(WAYS if can_count else WAYS[:-2]))
    if how == "type":
        call.types[index] = data.draw(st.sampled_from(["float64", "int64", "bool", "", "float3", "float32x"]))
    elif how == "no-type":
        call.types[index] = None
    elif how == "pointer":
        call.pointers[index] = None
    elif how == "size":
        # Any other width of the coefficients. A multiple of the right one would be more rows.
        call.shapes[index][-1] += data.draw(st.integers(1, 6))
    elif how == "huge":
        call.shapes[index] = data.draw(st.sampled_from([[2**31], [2**62, 2**62], [2**32, 2**32], [2**63 - 1]]))
        if index == 0:
            call.shapes[0].append(3)
    elif how == "negative":
        call.shapes[index][0] = -data.draw(st.integers(0, 5))
    elif how in ("drop", "repeat"):
        for values in (call.pointers, call.types, call.shapes):
            if how == "drop":
                del values[index]
            else:
                values.insert(index, values[index])
    else:
        rows = call.arrays[1]
        rows[data.draw(st.integers(0, len(rows) - 1)), 0] = data.draw(st.sampled_from([-1, 1, 2**31 - 1, -(2**31)]))
    before = [array.copy() for array in call.arrays]
    assert call.launch() != GOOD
    for array, value in zip(call.arrays, before):
        np.testing.assert_array_equal(array, value)
