# SPDX-License-Identifier: Apache-2.0

"""The results of a step: parameters of shape (), the returned tuple, and the bits that a skipped step keeps."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindspore_offload import AdamOffload, AdamWOffload

WRITEBACKS = ["in_place", "assign"]


@pytest.mark.parametrize("writeback", WRITEBACKS)
@pytest.mark.parametrize("make", [AdamOffload, AdamWOffload], ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16], ids=str)
def test_parameter_of_no_dimension(dtype, make, writeback, host_kernel):
    weight = Parameter(Tensor(np.float32(1)).astype(dtype), name="weight")
    optimizer = make([weight], 0.25, weight_decay=0.0, host_kernel=host_kernel, writeback=writeback)
    optimizer((Tensor(np.float32(1)).astype(dtype),))
    assert weight.shape == ()
    # The first step is of the size of the learning rate.
    np.testing.assert_allclose(weight.astype(ms.float32).asnumpy(), 0.75, atol=1e-5)


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


ODD = np.array([0, -0.0, 1e-40, -1e-45, np.inf, -np.inf, 3.4e38, -1.5, 1.1754944e-38, np.nan, 6e-8, 65504], np.float32)


def bits_of(optimizer):
    """Returns the bytes of all weights and states but those that a skipped step writes."""
    kept = [p for p in optimizer.get_parameters() if p.name not in ("skipped_steps", "global_norm")]
    values = {p.name: p.astype(ms.float32) if p.dtype == ms.bfloat16 else p for p in kept}
    return {name: value.asnumpy().tobytes() for name, value in values.items()}


@pytest.mark.parametrize("arguments", [{}, {"weight_decay": 0.1, "max_grad_norm": 1.0, "use_nesterov": True}], ids=str)
@pytest.mark.parametrize("place", [*WRITEBACKS, "small"])
@pytest.mark.parametrize("make", [AdamOffload, AdamWOffload], ids=lambda make: make.__name__)
def test_a_skipped_step_changes_no_bit(make, place, arguments, host_kernel):
    """Arithmetic would: it loses the sign of -0 and subnormal numbers, and makes NaN of infinities."""
    where = {"min_offload_size": 10**6} if place == "small" else {"writeback": place}
    weights = [Parameter(Tensor(ODD).astype(dtype), name=str(dtype)) for dtype in (ms.float32, ms.float16, ms.bfloat16)]
    optimizer = make(weights, 0.1, host_kernel=host_kernel, skip_nonfinite=True, **where, **arguments)
    for state in (*optimizer.moment1, *optimizer.moment2, *optimizer.master):
        state.set_data(Tensor(ODD[::-1].copy()))
    before = bits_of(optimizer)
    for count, bad in enumerate((np.inf, np.nan), start=1):
        gradients = [np.full(ODD.shape, 0.3, np.float32) for _ in weights]
        gradients[count][3] = bad
        optimizer(tuple(Tensor(gradient).astype(weight.dtype) for gradient, weight in zip(gradients, weights)))
        assert bits_of(optimizer) == before
        assert optimizer.skipped_steps.asnumpy() == [count]
