# SPDX-License-Identifier: Apache-2.0

"""AdamW compared with PyTorch's, if that is installed."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from oracle import AdamW

from mindspore_offload import AdamOffload, AdamWOffload, convert_checkpoint

torch = pytest.importorskip("torch", reason="needs the extra 'peers'")


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


def test_100_steps_of_torch_adamw(host_kernel, writeback):
    """Two groups, one with a rate of each step and its own decay. Over 100 steps, float32 loses a few units."""
    rates = [0.01 * min(step, 20) / 20 for step in range(1, 101)]
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in [(33, 5), (17,)]]
    parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
    groups = [
        {"params": parameters[:1], "lr": rates, "weight_decay": 0.3},
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
        optimizer.param_groups[0]["lr"] = float(np.float32(rates[step]))
        gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        for parameter, gradient in zip(theirs, gradients):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        ours(tuple(Tensor(gradient) for gradient in gradients))
    for parameter, expected in zip(ours.parameters, theirs):
        expected = expected.detach().numpy()
        error = np.abs(parameter.asnumpy() - expected)
        assert (error <= 1e-6 * np.maximum(1, np.abs(expected))).all(), error.max()


def state_dict_of(optimizer, form, parameters):
    """Returns the state_dict in a form of `optimizer.state_dict()` or of `torch.distributed.checkpoint`."""
    if form in ("numbers", "param_names"):
        return optimizer.state_dict()
    checkpoint = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=form == "flattened")
    return checkpoint.get_optimizer_state_dict(torch.nn.ParameterDict(parameters), optimizer, options=options)


@pytest.mark.parametrize("form", ["numbers", "param_names", "names", "flattened"])
def test_a_state_dict_of_torch_adamw_goes_on(form):
    """Five steps in PyTorch, then 20 here. One oracle takes all, with two groups and a decay for one of them."""
    random = np.random.default_rng(6)
    names, shapes = ["w", "b"], [(5, 3), (7,)]
    weights = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    gradients = [[random.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(25)]
    theirs = [torch.nn.Parameter(torch.tensor(weight)) for weight in weights]
    groups = [[(name, parameter)] if form == "param_names" else [parameter] for name, parameter in zip(names, theirs)]
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
    state_dict = state_dict_of(optimizer, form, dict(zip(names, theirs)))
    converted = convert_checkpoint(state_dict, "torch.optim.AdamW", names=names if form == "numbers" else None)
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


def trained(kind, **arguments):
    """Returns an optimizer of PyTorch after a step with one parameter of two elements."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = kind([parameter], **arguments)
    parameter.grad = torch.tensor([0.5, 0.25])
    optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize(
    "arguments",
    [{}, {"foreach": True}, {"fused": True}, {"lr": torch.tensor(0.1)}, {"weight_decay": 0.0}],
    ids=lambda arguments: next(iter(arguments), "default"),
)
def test_every_form_of_torch_adamw_is_converted(arguments):
    parameter, optimizer = trained(torch.optim.AdamW, **arguments)
    converted = convert_checkpoint(optimizer.state_dict(), "torch.optim.AdamW", names=["w"])
    state = optimizer.state[parameter]
    np.testing.assert_array_equal(converted["moment1.w"].asnumpy(), state["exp_avg"].numpy())
    np.testing.assert_array_equal(converted["moment2.w"].asnumpy(), state["exp_avg_sq"].numpy())
    assert converted["global_step"].asnumpy() == [1]


OTHERS = ["Adam", "Adamax", "NAdam", "RAdam", "SGD", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop", "Adafactor"]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        *[(kind, {}) for kind in OTHERS],
        *[(kind, {"decoupled_weight_decay": True}) for kind in ("NAdam", "RAdam")],
        *[("AdamW", {flag: True}) for flag in ("amsgrad", "maximize")],
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value), "default"),
)
def test_another_optimizer_of_torch_is_refused(kind, arguments):
    parameter, optimizer = trained(getattr(torch.optim, kind), **arguments)
    for form in ("numbers", "names", "flattened"):
        state_dict = state_dict_of(optimizer, form, {"w": parameter})
        with pytest.raises(ValueError, match=r"^For 'convert_checkpoint', the argument 'checkpoint' must .*; "):
            convert_checkpoint(state_dict, "torch.optim.AdamW", names=["w"])


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_state_dict_of_torch_adam_goes_on(decay):
    """With decay in `AdamOffload`, where `eps` differs, and without in `AdamWOffload`, which is the same algorithm."""
    random = np.random.default_rng(9)
    weight, *gradients = random.standard_normal((26, 50)).astype(np.float32)
    parameter = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    eps = 1e-12 if decay else 0.1
    optimizer = torch.optim.Adam([("w", parameter)], 0.01, (0.8, 0.99), eps, decay)
    for step, gradient in enumerate(gradients):
        if step == 5:
            converted = convert_checkpoint(optimizer.state_dict(), "torch.optim.Adam")
            weights = [Parameter(Tensor(parameter.detach().numpy(), ms.float32), name="w")]
            kind = AdamOffload if decay else AdamWOffload
            ours = kind(weights, 0.01, 0.8, 0.99, eps, weight_decay=decay)
            ms.load_param_into_net(ours, converted, strict_load=True)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        if step >= 5:
            ours((Tensor(gradient),))
    np.testing.assert_allclose(ours.parameters[0].asnumpy(), parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


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
