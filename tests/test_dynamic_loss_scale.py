# SPDX-License-Identifier: Apache-2.0

"""A loss scale in a Parameter: read in each step, with the same result as a fixed scale of the same value."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, amp, nn, ops
from nets import assert_same
from steps import MIXED, OPTIMIZERS, gradients_for, new_parameters, values

from mindspore_offload import AdamOffload

SETTINGS = {
    "decay": {"weight_decay": 0.1},
    "decay+clip+skip": {"weight_decay": 0.1, "max_grad_norm": 1.0, "skip_nonfinite": True},
}
full = pytest.mark.full


@pytest.mark.parametrize(
    ("name", "settings", "writeback"),
    [
        ("Adam", "decay", "in_place"),
        ("Adam", "decay+clip+skip", "assign"),
        ("AdamW", "decay+clip+skip", "in_place"),
        pytest.param("Adam", "decay", "assign", marks=full),
        pytest.param("Adam", "decay+clip+skip", "in_place", marks=full),
        pytest.param("AdamW", "decay", "in_place", marks=full),
        pytest.param("AdamW", "decay", "assign", marks=full),
        pytest.param("AdamW", "decay+clip+skip", "assign", marks=full),
    ],
)
def test_ends_in_the_bits_of_a_fixed_scale(name, settings, writeback, host_kernel):
    """The scale changes before the last step. Both scales are powers of two, which scale without rounding."""
    shape = () if writeback == "in_place" else (1,)
    scale = Parameter(Tensor(np.full(shape, 1024.0, np.float32)), name="scale")
    ends = []
    for loss_scale in (1024.0, scale):
        parameters = new_parameters(MIXED)
        optimizer = OPTIMIZERS[name](
            parameters, 0.01, loss_scale=loss_scale, host_kernel=host_kernel, writeback=writeback, **SETTINGS[settings]
        )
        for step in range(3):
            size = 1024.0
            if step == 2 and loss_scale is scale:
                size = 256.0
                ops.assign(scale, Tensor(np.full(shape, size, np.float32)))
            optimizer(gradients_for(parameters, size, seed=step))
        ends.append({name: value for name, value in values(optimizer).items() if name != "scale"})
    assert_same(*ends)


def test_the_scale_is_saved_with_the_optimizer():
    """A resumed training needs the scale to continue unchanged."""
    scale = Parameter(Tensor(8.0, ms.float32), name="scale_value")
    optimizer = AdamOffload(new_parameters(["float32"]), loss_scale=scale)
    assert "scale_value" in {parameter.name for parameter in optimizer.get_parameters()}


class Step(nn.Cell):
    def __init__(self, weight, optimizer, scaler):
        super().__init__(auto_prefix=False)
        self.weight, self.optimizer, self.scaler = weight, optimizer, scaler
        self.gradients_of = ops.grad(self.scaled_loss, None, optimizer.parameters)

    def scaled_loss(self, factor):
        return self.scaler.scale((self.weight.astype(ms.float32) * factor).sum())

    def construct(self, factor):
        updated = self.optimizer(self.gradients_of(factor))
        norm = ops.depend(self.optimizer.global_norm, updated)[0]
        self.scaler.adjust(ops.isfinite(norm))
        return norm


def test_a_dynamic_loss_scaler_falls_until_gradients_fit():
    """In float16, 2 times 65536 and 2 times 32768 are infinite. The norm is computed from unscaled gradients."""
    scaler = amp.DynamicLossScaler(65536.0, scale_factor=2, scale_window=100)
    weight = Parameter(Tensor(np.ones(4), ms.float16), name="weight")
    optimizer = AdamOffload([weight], 0.5, loss_scale=scaler.scale_value, skip_nonfinite=True)
    step = Step(weight, optimizer, scaler)
    norms = [float(step(Tensor(np.full(4, 2.0), ms.float32)).asnumpy()) for _ in range(4)]
    assert norms == [np.inf, np.inf, 4.0, 4.0]
    assert optimizer.skipped_steps.asnumpy() == [2]
    assert scaler.scale_value.asnumpy() == 16384.0
    np.testing.assert_allclose(optimizer.master[0].asnumpy(), 0.0, atol=1e-5)


@pytest.mark.parametrize(
    "scale",
    [Parameter(Tensor(1.0, ms.float16), name="scale"), Parameter(Tensor([1.0, 2.0], ms.float32), name="scale")],
    ids=["float16", "two-elements"],
)
def test_wrong_parameters_are_refused(scale):
    with pytest.raises(
        TypeError, match="'loss_scale' must be a float, or a Parameter of dtype float32 with one element"
    ):
        AdamOffload(new_parameters(["float32"]), loss_scale=scale)
