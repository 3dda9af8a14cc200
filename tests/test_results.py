# SPDX-License-Identifier: Apache-2.0

"""The result of a step: a tuple that a training cell may hand on."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_offload import AdamOffload


class TwoOptimizers(nn.Cell):
    """Hands on the result of a step in a way that users' training cells do."""

    def __init__(self, first, second, use):
        super().__init__(auto_prefix=False)
        self.first, self.second, self.use = first, second, use

    def construct(self, gradient):
        one = self.first((gradient, gradient))
        if self.use == "element":
            return one[1]
        two = self.second((gradient, gradient))
        if self.use == "depend":
            return ops.depend(two, one)
        return one + two


@pytest.mark.parametrize(("use", "steps"), [("element", (1, 0)), ("depend", (1, 1)), ("sum", (1, 1))])
def test_returned_tuple_may_be_handed_on(use, steps):
    weights = [Parameter(Tensor(np.zeros(2, np.float32)), name=name) for name in "pqrs"]
    cell = TwoOptimizers(AdamOffload(weights[:2], 0.25), AdamOffload(weights[2:], 0.25), use)
    result = cell(Tensor(np.ones(2, np.float32)))
    assert result in (True, (True,) * 2, (True,) * 4)
    for weight, count in zip(weights, np.repeat(steps, 2)):
        np.testing.assert_allclose(weight.asnumpy(), -0.25 * count, atol=1e-5)
