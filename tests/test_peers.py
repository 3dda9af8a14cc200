# SPDX-License-Identifier: Apache-2.0

"""AdamW compared with PyTorch's, if that is installed."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from oracle import AdamW
from test_adamw import Warming

from mindspore_offload import AdamWOffload, convert_checkpoint

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


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_a_state_dict_of_torch_adamw_goes_on(named):
    """Five steps in PyTorch, then 20 here. One oracle takes all, with two groups and a decay for one of them."""
    random = np.random.default_rng(6)
    names, shapes = ["w", "b"], [(5, 3), (7,)]
    weights = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    gradients = [[random.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(25)]
    theirs = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    groups = [[(name, parameter)] if named else [parameter] for name, parameter in zip(names, theirs)]
    optimizer = torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.3, 0.0))],
        lr=0.01,
        betas=(0.8, 0.99),
        eps=1e-4,
    )
    for step in gradients[:5]:
        for parameter, gradient in zip(theirs, step):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()

    parameters = [Parameter(Tensor(p.detach().numpy()), name=name) for p, name in zip(theirs, names)]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(parameters, (0.3, 0.0))]
    ours = AdamWOffload(groups, 0.01, 0.8, 0.99, 1e-4)
    converted = convert_checkpoint(optimizer.state_dict(), "torch.optim.AdamW", names=None if named else names)
    missing, unused = ms.load_param_into_net(ours, converted, strict_load=True)
    assert (set(missing), unused) == ({"w", "b", "learning_rate"}, [])
    for moment, parameter in zip(ours.moment2, theirs):
        np.testing.assert_array_equal(moment.asnumpy(), optimizer.state[parameter]["exp_avg_sq"].numpy())
    oracles = [
        AdamW([weight], decay, learning_rate=0.01, beta1=0.8, beta2=0.99, eps=1e-4)
        for weight, decay in zip(weights, (0.3, 0.0))
    ]
    for i, step in enumerate(gradients):
        for oracle, gradient in zip(oracles, step):
            oracle.step([gradient])
        if i >= 5:
            ours(tuple(Tensor(gradient) for gradient in step))
    for oracle, parameter in zip(oracles, ours.parameters):
        error = np.abs(parameter.asnumpy() - oracle.weights[0])
        assert (error <= 1e-6 * np.maximum(1, np.abs(oracle.weights[0]))).all(), error.max()


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
