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


def test_a_foreign_checkpoint_that_was_not_converted_is_noticed(tmp_path, host_kernel):
    theirs = trained(nn.AdamWeightDecay(new_parameters(), 1e-3), 0, 4)
    ours = AdamWOffload(new_parameters(), 1e-3, host_kernel=host_kernel)
    ms.load_param_into_net(ours, checkpoint_of(theirs, tmp_path / "a.ckpt"))
    with pytest.warns(UserWarning, match=r"the moments are zero, although global_step is 4: .*convert_checkpoint"):
        trained(ours, 4, 5)


def test_it_is_noticed_once(tmp_path):
    """Gradients of another dtype need another compilation, while moments of masked batches are still zero."""
    theirs = trained(nn.AdamWeightDecay(new_parameters(), 1e-3), 0, 4)
    ours = AdamWOffload(new_parameters(), 1e-3)
    ms.load_param_into_net(ours, checkpoint_of(theirs, tmp_path / "a.ckpt"))
    with pytest.warns(UserWarning, match="the moments are zero") as warned:
        masked_steps(ours)
    assert len(warned) == 1


def masked_steps(optimizer):
    for dtype in (ms.float32, ms.float16):
        optimizer(tuple(Tensor(np.zeros(parameter.shape), dtype) for parameter in optimizer.parameters))


def test_masked_batches_cause_no_warning(recwarn):
    ours = AdamWOffload(new_parameters(), 1e-3)
    masked_steps(ours)
    assert ours.global_step.asnumpy() == [2]
    assert not recwarn


def test_a_checkpoint_of_ours_causes_no_warning(tmp_path, recwarn):
    ours = trained(AdamWOffload(new_parameters(), 1e-3, moment_dtype=ms.bfloat16), 0, 4)
    resumed = AdamWOffload(new_parameters(), 1e-3, moment_dtype=ms.bfloat16)
    ms.load_param_into_net(resumed, checkpoint_of(ours, tmp_path / "a.ckpt"), strict_load=True)
    trained(resumed, 4, 5)
    assert not recwarn
