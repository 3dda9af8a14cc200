# SPDX-License-Identifier: Apache-2.0

"""AdamW compared with PyTorch's, if that is installed."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from test_adamw import Warming

from mindspore_offload import AdamWOffload

torch = pytest.importorskip("torch", reason="needs the extra 'peers'")


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


def test_100_steps_of_torch_adamw(host_kernel, writeback):
    """Two groups, one with a schedule and its own decay. Over 100 steps, float32 loses a few units."""
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in [(33, 5), (17,)]]
    parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
    groups = [
        {"params": parameters[:1], "lr": Warming(), "weight_decay": 0.3},
        {"params": parameters[1:], "lr": 0.005, "weight_decay": 0.0},
    ]
    ours = AdamWOffload(groups, eps=1e-4, host_kernel=host_kernel, writeback=writeback)
    theirs = [torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64)) for weight in weights]
    optimizer = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "lr": 0.005, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
        eps=1e-4,
    )
    for step in range(100):
        optimizer.param_groups[0]["lr"] = float(np.float32(0.01 * min(step + 1, 20) / 20))
        gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        for parameter, gradient in zip(theirs, gradients):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        ours(tuple(Tensor(gradient) for gradient in gradients))
    for parameter, expected in zip(ours.parameters, theirs):
        expected = expected.detach().numpy()
        error = np.abs(parameter.asnumpy() - expected)
        assert (error <= 1e-6 * np.maximum(1, np.abs(expected))).all(), error.max()


@pytest.mark.parametrize("norm", [1.0, 1e6], ids=["clipped", "within"])
def test_clipping_of_torch(norm):
    random = np.random.default_rng(4)
    weights = [random.standard_normal(9).astype(np.float32) for _ in range(2)]
    gradients = [random.standard_normal(9).astype(np.float32) for _ in range(2)]
    ours = AdamWOffload([Parameter(Tensor(w), name=f"w{i}") for i, w in enumerate(weights)], max_grad_norm=norm)
    ours(tuple(Tensor(gradient, ms.float32) for gradient in gradients))
    theirs = [torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64)) for weight in weights]
    for parameter, gradient in zip(theirs, gradients):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    total = torch.nn.utils.clip_grad_norm_(theirs, norm)
    np.testing.assert_allclose(ours.global_norm.asnumpy(), [float(total)], rtol=1e-6)
    for moment, parameter in zip(ours.moment1, theirs):
        np.testing.assert_allclose(moment.asnumpy(), 0.1 * parameter.grad.numpy(), rtol=3e-6)
