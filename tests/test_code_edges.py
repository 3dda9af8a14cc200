# SPDX-License-Identifier: Apache-2.0

"""8-bit moments with gradients at the edges of float32, in the graph of a training step, against float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from moment_values import assert_stored, values_of
from oracle import AdamW, Oracle

from mindspore_offload import AdamOffload, AdamWOffload

COLUMNS = 512  # two blocks, so a row shares none with others
STEPS, EVENT, BAD = 30, 10, 300  # the step and the column of what happens once

# Each row's gradients, as a function of the step, from those of a normal distribution.
ROWS = {
    "ordinary": lambda step, normal: normal,
    "zeros": lambda step, normal: 0 * normal,
    "tiny": lambda step, normal: 1e-30 * normal,
    "jump from 1e-12 to 1e12": lambda step, normal: (1e12 if step == EVENT else 1e-12) * normal,
    "outlier of 1e10": lambda step, normal: np.where(np.arange(COLUMNS) == BAD, 1e10, 1) * normal,
    "always zero in one column": lambda step, normal: np.where(np.arange(COLUMNS) == BAD, 0, 1) * normal,
    **{f"one of {bad}": lambda step, normal, bad=bad: once(step, normal, bad) for bad in (1e25, np.nan, np.inf)},
}
STAYS = [([*ROWS].index("zeros"), slice(None)), ([*ROWS].index("always zero in one column"), BAD)]


def once(step, normal, bad):
    return np.where((np.arange(COLUMNS) == BAD) & (step == EVENT), bad, normal)


class Product(nn.Cell):
    """A net of one weight, whose gradient is its input."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.full((len(ROWS), COLUMNS), 0.5, np.float32)), name="weight")

    def construct(self, inputs):
        return (self.weight * inputs).sum()


def overflowing(oracle):
    """Returns this oracle with second moments that become infinite where those in float32 do."""

    class Overflowing(oracle):
        def updated(self, i, weight, direction, moment2):
            moment2 = np.where(moment2 > np.finfo(np.float32).max, np.inf, moment2)
            return super().updated(i, weight, direction, moment2)

    return Overflowing


@pytest.mark.parametrize(
    ("optimizer_class", "oracle_class", "writeback"),
    [(AdamOffload, Oracle, "in_place"), (AdamWOffload, AdamW, "assign")],
    ids=["Adam-in_place", "AdamW-assign"],
)
def test_gradients_at_the_edges(optimizer_class, oracle_class, writeback):
    """A step starts from the stored moments and agrees with float64, NaN included. Then their roundings are checked.

    An element whose moments are not finite starts again from zero, and leaves the rest of its block alone.
    """
    settings = {"learning_rate": 0.1, "weight_decay": 0.0}
    net = Product()
    optimizer = optimizer_class(
        net.trainable_params(), **settings, moment_dtype=ms.uint8, host_kernel="native", writeback=writeback
    )
    training = nn.TrainOneStepCell(net, optimizer)
    oracle = overflowing(oracle_class)([net.weight.asnumpy()], **settings)
    random = np.random.default_rng(1)
    for step in range(STEPS):
        normal = random.standard_normal((len(ROWS), COLUMNS))
        gradient = np.stack([row(step, each) for row, each in zip(ROWS.values(), normal)]).astype(np.float32)
        training(Tensor(gradient))
        with np.errstate(invalid="ignore", over="ignore"):
            oracle.step([gradient], weights=[0.0])  # only for the decay, which is 0, but not times NaN
        weight = net.weight.asnumpy()
        np.testing.assert_allclose(weight, oracle.weights[0], rtol=1e-6, atol=1e-6)
        assert all((weight[stays] == 0.5).all() for stays in STAYS)
        restarted = ~(oracle.moment2[0] <= 8.5e37)
        assert restarted.sum() == (3 if step == EVENT else 0)
        for kind, exact in (("moment1", oracle.moment1), ("moment2", oracle.moment2)):
            stored = values_of(getattr(optimizer, kind)[0], weight.shape)
            # Squares of 1e-30 are no float32 numbers.
            wanted = np.where(restarted | (np.abs(exact[0]) < np.finfo(np.float32).tiny), 0, exact[0])
            assert_stored(stored, wanted, "uint8", kind)
            assert kind == "moment2" or not stored[restarted].any()  # no second moment of a live block is zero
            exact[0] = stored.astype(np.float64)
    np.testing.assert_array_equal(np.argwhere(np.isnan(weight)), [[len(ROWS) - 2, BAD], [len(ROWS) - 1, BAD]])
