# SPDX-License-Identifier: Apache-2.0

"""The operation that compares what all ranks bring to a step, with the values of two ranks and without any rank."""

import numpy as np
import pytest
from mindspore import Tensor, nn
from test_adapter import launch, replaced

from mindspore_offload.distributed.ranks import comparison

SECTIONS = np.array([1, 3, 2, 4], np.int32)
RANK = np.array([6, 0.5, 0.9, 0.1, 1.0, 2.0, 1.0, -2.0, 0.0, 3.0], np.float32)  # a step, settings, weights, gradients


class Compare(nn.Cell):
    def __init__(self):
        super().__init__()
        self.same_step = comparison()

    def construct(self, values, sections):
        return self.same_step(values, sections)


def compare(changed, values=RANK):
    """Compares three ranks, of which the last one has other values at some places."""
    other = values.copy()
    for place, value in changed.items():
        other[place] = value
    Compare()(Tensor(np.concatenate([values, values, other])), Tensor(SECTIONS))


def test_same_values_and_rounding_are_accepted():
    compare({7: -2.03, 8: 0.01})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: 3}, "be at the same step, but rank 0 has taken 6 steps and rank 2 3; load checkpoints of the same step"),
        ({3: np.nextafter(RANK[3], np.float32(1))}, "have the same powers of the betas, learning rates, weight decays"),
        ({5: np.nan}, "have the same values of the parameters, but those of rank 2 are not those of rank 0"),
        ({8: 0.1}, "get the same gradients, but those of rank 2 are not those of rank 0; reduce them"),
        ({9: np.inf}, "get the same gradients"),
    ],
    ids=["step", "settings", "weights", "gradients", "an infinite gradient"],
)
def test_other_values_are_refused(changed, message):
    with pytest.raises(RuntimeError, match=f"With shard_states=True, all ranks must {message}"):
        compare(changed)


def test_gradients_that_are_finite_on_no_rank_are_accepted():
    compare({9: np.inf}, np.append(RANK[:9], np.float32(np.nan)))


@pytest.mark.parametrize(
    "change",
    [
        replaced(0, np.tile(RANK, 2)[:-1].copy()),
        replaced(0, np.tile(RANK, 2).astype(np.float64)),
        replaced(1, SECTIONS[:3].copy()),
        replaced(1, SECTIONS.astype(np.int64)),
        replaced(1, np.array([1, 0, 5, 4], np.int32)),
        lambda arrays: arrays[:2],
    ],
    ids=["a-value-missing", "float64", "a-section-missing", "int64", "an-empty-section", "no-output"],
)
def test_a_bad_call_gets_an_error_code(change):
    good = [np.tile(RANK, 2), SECTIONS, np.zeros(1, np.float32)]
    assert launch(good, function="SameStep") == 0
    assert launch(change(good), function="SameStep") != 0
