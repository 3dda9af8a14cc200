# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of other optimizers: converted, loaded, and trained on with; and noticed if they were not converted.

Those of MindFormers and MindCV themselves are tested in clients/, those of PyTorch in test_peers.py.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, mint, nn
from mindspore.experimental import optim as experimental
from nets import parameters_of
from oracle import AdamW, assert_agrees

from mindspore_offload import AdamOffload, AdamWOffload, convert_checkpoint

SHAPES = {"net.w": (4, 3), "net.b": (3,)}


def new_parameters(dtype=np.float32):
    random = np.random.default_rng(5)
    return [Parameter(Tensor(random.standard_normal(s).astype(dtype)), name=name) for name, s in SHAPES.items()]


def gradients_of(step, dtype=np.float32):
    random = np.random.default_rng([7, step])
    return [random.standard_normal(shape).astype(dtype) for shape in SHAPES.values()]


def trained(optimizer, first, last, dtype=np.float32):
    for step in range(first, last):
        optimizer(tuple(Tensor(gradient) for gradient in gradients_of(step, dtype)))
    return optimizer


def checkpoint_of(optimizer, path):
    ms.save_checkpoint(optimizer, str(path))
    return ms.load_checkpoint(str(path))


def saved(**arrays):
    """Returns a checkpoint with these arrays. A double underscore stands for the first dot of a name."""
    names = {name: name.replace("__", ".", 1) for name in arrays}
    return {names[name]: Parameter(Tensor(array), name=names[name]) for name, array in arrays.items()}


def test_adam_weight_decay(tmp_path):
    """Its moments are those of AdamW, to which the oracle compares."""
    theirs = trained(nn.AdamWeightDecay(new_parameters(), 1e-3, beta2=0.9), 0, 4)
    ours = AdamWOffload(new_parameters(), 1e-3, beta2=0.9)
    with pytest.warns(UserWarning, match=r"nn\.AdamWeightDecay does not correct the bias"):
        converted = convert_checkpoint(checkpoint_of(theirs, tmp_path / "a.ckpt"), "nn.AdamWeightDecay", beta2=0.9)
    assert ms.load_param_into_net(ours, converted, strict_load=True) == ([], [])
    assert ours.global_step.asnumpy() == [4]

    oracle = AdamW([parameter.asnumpy() for parameter in new_parameters()], beta2=0.9)
    for step in range(4):
        oracle.step(gradients_of(step))
    kinds = ours.moment1, ours.moment2
    assert_agrees(oracle, oracle.weights, *([state.asnumpy() for state in kind] for kind in kinds))
    np.testing.assert_allclose(ours.beta1_power.asnumpy(), [oracle.power1], rtol=1e-6)
    np.testing.assert_allclose(ours.beta2_power.asnumpy(), [oracle.power2], rtol=1e-6)
    for one, other in zip(ours.parameters, theirs.parameters):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy())


def test_16_bit_moments_become_float32():
    theirs = trained(nn.AdamWeightDecay(new_parameters(np.float16), 0.1), 0, 1, np.float16)
    checkpoint = {parameter.name: parameter for parameter in theirs.get_parameters()}
    with pytest.warns(UserWarning, match="does not correct the bias"):
        converted = convert_checkpoint(checkpoint, "nn.AdamWeightDecay")
    ours = AdamWOffload(new_parameters(np.float16), 0.1)
    loaded = ms.load_param_into_net(ours, converted, strict_load=True)
    assert loaded == (["master.net.w", "master.net.b"], [])
    np.testing.assert_array_equal(ours.moment1[0].asnumpy(), np.float32(theirs.moments1[0].asnumpy()))


def test_20_more_steps_after_experimental_adamw(tmp_path):
    """One oracle takes all steps."""
    settings = {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.3}
    theirs = trained(experimental.AdamW(new_parameters(), 0.01, **settings), 0, 5)
    converted = convert_checkpoint(checkpoint_of(theirs, tmp_path / "a.ckpt"), "experimental.optim.AdamW", 0.8, 0.99)
    ours = AdamWOffload(new_parameters(), 0.01, 0.8, 0.99, 1e-4, weight_decay=0.3)
    assert ms.load_param_into_net(ours, converted, strict_load=True) == (["learning_rate"], [])
    trained(ours, 5, 25)

    weights = [parameter.asnumpy() for parameter in new_parameters()]
    oracle = AdamW(weights, 0.3, learning_rate=0.01, beta1=0.8, beta2=0.99, eps=1e-4)
    for step in range(25):
        oracle.step(gradients_of(step))
    for parameter, expected in zip(ours.parameters, oracle.weights):
        assert (np.abs(parameter.asnumpy() - expected) <= 1e-6 * np.maximum(1, np.abs(expected))).all()


def test_mint_adamw_counts_from_minus_one(tmp_path):
    """It runs on Ascend only, so this fills in its states as they are after five steps."""
    theirs = mint.optim.AdamW(new_parameters(), 0.01)
    assert theirs.state_step.asnumpy() == [-1]
    theirs.state_step.set_data(Tensor([4.0], ms.float32))
    theirs.exp_avg[0].set_data(Tensor(np.full((4, 3), 2, np.float32)))
    theirs.exp_avg_sq[1].set_data(Tensor(np.full(3, 3, np.float32)))
    converted = convert_checkpoint(checkpoint_of(theirs, tmp_path / "a.ckpt"), "mint.optim.AdamW")
    ours = AdamWOffload(new_parameters(), 0.01)
    assert ms.load_param_into_net(ours, converted, strict_load=True)[0] == ["learning_rate"]
    assert ours.global_step.asnumpy() == [5]
    np.testing.assert_allclose(ours.beta1_power.asnumpy(), [0.9**5], rtol=1e-6)
    assert [state.asnumpy().max() for state in (*ours.moment1, *ours.moment2)] == [2, 0, 0, 3]


def test_adam_with_use_offload_loads_as_it_is(tmp_path):
    theirs = trained(nn.Adam(new_parameters(), 1e-3, use_offload=True), 0, 4)
    ours = AdamOffload(new_parameters(), 1e-3)
    loaded = ms.load_param_into_net(ours, checkpoint_of(theirs, tmp_path / "a.ckpt"), strict_load=True)
    assert loaded == ([], [])
    one, other = parameters_of(trained(ours, 4, 8)), parameters_of(trained(theirs, 4, 8))
    for name in SHAPES:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("source", ["mindformers.AdamW", "mindcv.AdamW"])
def test_an_adamw_that_corrects_the_bias_causes_no_warning(source, recwarn):
    converted = convert_checkpoint(
        saved(adam_m__w=np.ones(3, np.float32), adam_v__w=np.ones(3, np.float32), global_step=np.int32([3])), source
    )
    assert not recwarn
    np.testing.assert_allclose(converted["beta2_power"].asnumpy(), [np.float32(0.999) ** 3], rtol=1e-6)


def test_powers_of_the_checkpoint_stay():
    checkpoint = saved(adam_m__w=np.ones(3, np.float32), global_step=np.int32([3]), beta1_power=np.float32([0.5]))
    assert convert_checkpoint(checkpoint, "mindcv.AdamW")["beta1_power"].asnumpy() == [0.5]


def test_a_checkpoint_that_is_no_dict_is_refused():
    with pytest.raises(TypeError, match=r"'checkpoint' must be a dict, but got 'saved.ckpt' of type str"):
        convert_checkpoint("saved.ckpt", "mindcv.AdamW")


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"'source' must be one of \[.*'torch\.optim\.AdamW'\], but got 'AdamW'"):
        convert_checkpoint({}, "AdamW")


@pytest.mark.parametrize(
    ("global_step", "shown"),
    [([-1], r"\[-1\]"), (np.zeros(0), r"\[\]"), ([3, 4], r"\[3, 4\]"), (np.float32([2.5]), r"\[2.5\]")],
    ids=["negative", "empty", "two", "fraction"],
)
def test_a_number_of_steps_that_is_no_count_is_refused(global_step, shown):
    dtype = None if np.asarray(global_step).dtype == np.float32 else ms.int32
    checkpoint = saved(adam_m__w=np.ones(3, np.float32))
    checkpoint["global_step"] = Parameter(Tensor(global_step, dtype), name="global_step")
    with pytest.raises(ValueError, match=rf"'global_step' in .* one whole number of at least 0, but got {shown}"):
        convert_checkpoint(checkpoint, "mindformers.AdamW")


@pytest.mark.parametrize("betas", [{"beta1": 1.0}, {"beta2": 0.0}, {"beta2": float("nan")}], ids=str)
def test_a_beta_outside_0_and_1_is_refused(betas):
    checkpoint = saved(adam_m__w=np.ones(3, np.float32), global_step=np.int32([3]))
    with pytest.raises(ValueError, match=f"'{next(iter(betas))}' must be between 0 and 1"):
        convert_checkpoint(checkpoint, "mindformers.AdamW", **betas)


@pytest.mark.parametrize("source", ["mindformers.AdamW", "mint.optim.AdamW"])
def test_a_checkpoint_of_a_net_alone_is_refused(source):
    with pytest.raises(ValueError, match=rf"'checkpoint' must hold '\w+_step'.* but got \['net.w'\].* {source}, not"):
        convert_checkpoint(saved(net__w=np.ones(3, np.float32)), source)


def test_amsgrad_is_refused():
    theirs = trained(experimental.AdamW(new_parameters(), 0.01, amsgrad=True), 0, 1)
    checkpoint = {parameter.name: parameter for parameter in theirs.get_parameters()}
    with pytest.raises(ValueError, match=r"without AMSGrad, but got 'max_exp_avg_sq.net.w'"):
        convert_checkpoint(checkpoint, "experimental.optim.AdamW")


TORCH_STATES = {0: {"step": 3}, 1: {"step": 3}}


@pytest.mark.parametrize(
    ("state_dict", "names", "message"),
    [
        ({"0.weight": 1}, None, r"must hold 'state' and 'param_groups', but got \['0.weight'\]"),
        ({"state": TORCH_STATES}, None, r"the names of the 2 parameters in the state_dict, .* but got 0"),
        ({"state": TORCH_STATES}, ["w"], r"the names of the 2 parameters in the state_dict, .* but got 1"),
        ({"state": {0: {"step": 3}, 1: {"step": 4}}}, ["w", "b"], r"the same betas and .*steps \[3.0, 4.0\]"),
        ({"state": {}}, ["w", "b"], r"the same betas and .*steps \[\]"),
    ],
    ids=["net", "no-names", "too-few-names", "different-steps", "not-trained"],
)
def test_a_state_dict_of_torch_that_does_not_fit_is_refused(state_dict, names, message):
    if "state" in state_dict:
        state_dict = {**state_dict, "param_groups": [{"params": [0, 1], "betas": (0.9, 0.999)}]}
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(state_dict, "torch.optim.AdamW", names=names)


def test_a_foreign_checkpoint_that_was_not_converted_is_noticed(tmp_path, host_kernel):
    theirs = trained(nn.AdamWeightDecay(new_parameters(), 1e-3), 0, 4)
    ours = AdamWOffload(new_parameters(), 1e-3, host_kernel=host_kernel)
    ms.load_param_into_net(ours, checkpoint_of(theirs, tmp_path / "a.ckpt"))
    with pytest.warns(UserWarning, match=r"the moments are zero, although global_step is 4: .*convert_checkpoint"):
        trained(ours, 4, 5)


def test_a_checkpoint_of_ours_causes_no_warning(tmp_path, recwarn):
    ours = trained(AdamWOffload(new_parameters(), 1e-3, moment_dtype=ms.bfloat16), 0, 4)
    resumed = AdamWOffload(new_parameters(), 1e-3, moment_dtype=ms.bfloat16)
    ms.load_param_into_net(resumed, checkpoint_of(ours, tmp_path / "a.ckpt"), strict_load=True)
    trained(resumed, 4, 5)
    assert not recwarn
