# SPDX-License-Identifier: Apache-2.0

"""AdamW: against float64, with groups and schedules, and resumed from checkpoints of nn.AdamWeightDecay."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from nets import assert_same, parameters_of
from oracle import ADAMW_MUTANTS, AdamW, assert_agrees
from test_update import noticing_scenarios, scenario_data

from mindspore_offload import AdamOffload, AdamWOffload, convert_adam_weight_decay

SCENARIOS = {
    "default": {},
    "no-decay": {"weight_decay": 0.0},
    "decay": {"weight_decay": 0.3, "learning_rate": 0.05},
    "decay+nesterov": {"weight_decay": 0.3, "learning_rate": 0.05, "use_nesterov": True},
    "eps": {"eps": 1e-3, "learning_rate": 0.05},
    "decay+clip+loss-scale": {"weight_decay": 0.3, "loss_scale": 1000.0, "max_grad_norm": 3.0},
    "tiny-gradients": {"gradient_size": 1e-9},
}


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_agrees_with_float64(scenario, host_kernel, writeback):
    """One optimizer has parameters of all dtypes. For 16-bit parameters, the oracle is compared with the masters."""
    weights, steps, settings = scenario_data(**SCENARIOS[scenario])
    dtypes = [ms.float32, ms.float32, ms.float16, ms.bfloat16, ms.float16, ms.float32]
    parameters = [Parameter(Tensor(w).astype(d), name=f"w{i}") for i, (w, d) in enumerate(zip(weights, dtypes))]
    oracle = AdamW([parameter.float().asnumpy() for parameter in parameters], **settings)
    optimizer = AdamWOffload(parameters, host_kernel=host_kernel, writeback=writeback, **settings)
    masters = {master.name: master for master in optimizer.master}
    wide = [masters.get(f"master.{parameter.name}", parameter) for parameter in parameters]
    for step, gradients in enumerate(steps, 1):
        oracle.step(gradients)
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        if step in (1, 2, 10):
            kinds = (wide, optimizer.moment1, optimizer.moment2)
            assert_agrees(oracle, *([tensor.asnumpy() for tensor in kind] for kind in kinds))


@pytest.mark.parametrize("mutant", ADAMW_MUTANTS)
def test_a_wrong_adamw_would_be_noticed(mutant):
    assert noticing_scenarios(AdamW, mutant, SCENARIOS)


class Warming(nn.learning_rate_schedule.LearningRateSchedule):
    """Rises to 0.01 in 20 steps."""

    def construct(self, global_step):
        return 0.01 * (global_step.astype(ms.float32) + 1).clip(0, 20) / 20


def rates_and_decays(step):
    """Returns rate and decay of the two groups below at `step`, counted from 0."""
    return (np.float32(0.01 * min(step + 1, 20) / 20), 0.3), (np.float32(0.005), 0.0)


def test_100_steps_with_groups_schedules_and_decay(host_kernel, writeback):
    """Each group has its own oracle, whose rate is set before each step."""
    random = np.random.default_rng(3)
    weights = [random.standard_normal(shape).astype(np.float32) for shape in [(33, 5), (17,)]]
    parameters = [Parameter(Tensor(weight), name=f"w{i}") for i, weight in enumerate(weights)]
    groups = [
        {"params": parameters[:1], "lr": Warming(), "weight_decay": 0.3},
        {"params": parameters[1:], "lr": 0.005, "weight_decay": 0.0},
    ]
    optimizer = AdamWOffload(groups, host_kernel=host_kernel, writeback=writeback)
    oracles = [AdamW([weight], weight_decay=decay) for weight, (_, decay) in zip(weights, rates_and_decays(0))]
    for step in range(100):
        gradients = [random.standard_normal(weight.shape).astype(np.float32) for weight in weights]
        optimizer(tuple(Tensor(gradient) for gradient in gradients))
        for oracle, gradient, (rate, _) in zip(oracles, gradients, rates_and_decays(step)):
            oracle.learning_rate = float(rate)
            oracle.step([gradient])
    for oracle, parameter in zip(oracles, optimizer.parameters):
        error = np.abs(parameter.asnumpy() - oracle.weights[0])
        assert (error <= 1e-6 * np.maximum(1, np.abs(oracle.weights[0]))).all()


def test_decay_spares_beta_and_gamma_outside_groups():
    names = ("layer.weight", "norm.gamma", "norm.beta")
    parameters = [Parameter(Tensor(np.ones(3, np.float32)), name=name) for name in names]
    optimizer = AdamWOffload(parameters, 0.1, weight_decay=0.5)
    optimizer(tuple(Tensor(np.zeros(3, np.float32)) for _ in names))
    np.testing.assert_allclose([p.asnumpy()[0] for p in parameters], [0.95, 1, 1], rtol=1e-6)


def test_the_decay_does_not_depend_on_the_loss_scale():
    parameter = Parameter(Tensor(np.ones(3, np.float32)), name="w")
    AdamWOffload([parameter], 0.1, weight_decay=0.5, loss_scale=1024.0)((Tensor(np.zeros(3, np.float32)),))
    np.testing.assert_allclose(parameter.asnumpy(), 0.95, rtol=1e-6)


def test_adam_and_adamw_differ_only_in_the_decay():
    """Both have states of the same names. Without decay and with a negligible eps, their updates are equal."""
    ends = []
    for optimizer_class in (AdamOffload, AdamWOffload):
        parameters = [Parameter(Tensor(np.linspace(-1, 1, 7, dtype=np.float32)), name="w")]
        optimizer = optimizer_class(parameters, weight_decay=0.0, eps=1e-30)
        for step in range(3):
            optimizer((Tensor(np.full(7, 1.0 + step, np.float32)),))
        ends.append(parameters_of(optimizer))
    assert_same(*ends)


def test_a_checkpoint_of_adam_weight_decay_loads(tmp_path):
    random = np.random.default_rng(5)
    start = random.standard_normal(9).astype(np.float32)
    theirs = nn.AdamWeightDecay([Parameter(Tensor(start), name="net.w")], 1e-3, beta2=0.9)
    gradients = [random.standard_normal(9).astype(np.float32) for _ in range(4)]
    for gradient in gradients:
        theirs((Tensor(gradient),))
    ms.save_checkpoint(theirs, str(tmp_path / "saved.ckpt"))

    ours = AdamWOffload([Parameter(Tensor(start), name="net.w")], 1e-3, beta2=0.9)
    with pytest.warns(UserWarning, match="does not correct the bias"):
        converted = convert_adam_weight_decay(ms.load_checkpoint(str(tmp_path / "saved.ckpt")), beta2=0.9)
    assert ms.load_param_into_net(ours, converted, strict_load=True) == ([], [])
    assert ours.global_step.asnumpy() == [4]

    oracle = AdamW([start], beta2=0.9)
    for gradient in gradients:
        oracle.step([gradient])
    np.testing.assert_allclose(ours.moment1[0].asnumpy(), oracle.moment1[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(ours.moment2[0].asnumpy(), oracle.moment2[0], rtol=1e-5)
    np.testing.assert_allclose(ours.beta1_power.asnumpy(), [oracle.power1], rtol=1e-6)
    np.testing.assert_allclose(ours.beta2_power.asnumpy(), [oracle.power2], rtol=1e-6)
    np.testing.assert_array_equal(ours.parameters[0].asnumpy(), theirs.parameters[0].asnumpy())


def test_16_bit_moments_become_float32():
    weight = Parameter(Tensor(np.ones(3, np.float16)), name="w")
    theirs = nn.AdamWeightDecay([weight], 0.1)
    theirs((Tensor(np.ones(3, np.float16)),))
    with pytest.warns(UserWarning, match="does not correct the bias"):
        converted = convert_adam_weight_decay({parameter.name: parameter for parameter in theirs.get_parameters()})
    ours = AdamWOffload([weight], 0.1)
    assert ms.load_param_into_net(ours, converted, strict_load=True) == (["master.w"], [])
    np.testing.assert_array_equal(ours.moment1[0].asnumpy(), np.float32(theirs.moments1[0].asnumpy()))


def test_a_checkpoint_that_is_no_dict_is_refused():
    with pytest.raises(TypeError, match=r"'parameter_dict' must be a dict, but got 'saved.ckpt' of type str"):
        convert_adam_weight_decay("saved.ckpt")


@pytest.mark.parametrize(
    ("global_step", "shown"),
    [([-1], r"\[-1\]"), (np.zeros(0), r"\[\]"), ([3, 4], r"\[3, 4\]"), (np.float32([2.5]), r"\[2.5\]")],
    ids=["negative", "empty", "two", "fraction"],
)
def test_a_global_step_that_is_no_count_is_refused(global_step, shown):
    dtype = None if np.asarray(global_step).dtype == np.float32 else ms.int32
    checkpoint = {
        "adam_m.w": Parameter(Tensor(np.ones(3, np.float32)), name="adam_m.w"),
        "global_step": Parameter(Tensor(global_step, dtype), name="global_step"),
    }
    with pytest.raises(ValueError, match=rf"'global_step' in .* one whole number of at least 0, but got {shown}"):
        convert_adam_weight_decay(checkpoint)


@pytest.mark.parametrize("betas", [{"beta1": 1.0}, {"beta2": 0.0}, {"beta2": float("nan")}], ids=str)
def test_a_beta_outside_0_and_1_is_refused(betas):
    checkpoint = {
        "adam_m.w": Parameter(Tensor(np.ones(3, np.float32)), name="adam_m.w"),
        "global_step": Parameter(Tensor([3], ms.int32), name="global_step"),
    }
    with pytest.raises(ValueError, match=f"'{next(iter(betas))}' must be between 0 and 1"):
        convert_adam_weight_decay(checkpoint, **betas)


def test_a_checkpoint_of_a_net_alone_is_refused():
    net = {"net.w": Parameter(Tensor(np.ones(3, np.float32)), name="net.w")}
    with pytest.raises(ValueError, match=r"'parameter_dict' must hold 'global_step'.* but got \['net.w'\]"):
        convert_adam_weight_decay(net)
