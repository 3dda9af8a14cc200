# SPDX-License-Identifier: Apache-2.0

"""mindone: a small transformer by its factory and its training cell, with its clipping, EMA and accumulation."""

import functools

import mindspore as ms
import numpy as np
import pytest
from gpt import GPT, Loss
from mindone.trainers import optim
from mindone.trainers.ema import EMA
from mindone.trainers.train_step import TrainOneStepWrapper
from mindspore import Tensor

from mindspore_offload import AdamWOffload

LENGTH, BATCH, STEPS = 16, 4, 8
RATES = [1e-4 * (i + 1) for i in range(STEPS)]


def new_training(monkeypatch, offloaded, rates=RATES, **settings):
    ms.set_seed(1)
    net = Loss(GPT(layers=1, width=48, heads=6, length=LENGTH)).set_train()
    with monkeypatch.context() as patch:
        if offloaded:
            patch.setattr(optim, "AdamW_Refined", AdamWOffload)
        optimizer = optim.create_optimizer(
            net.trainable_params(),
            "adamw_re",
            rates,
            betas=[0.9, 0.95],
            weight_decay=0.1,
            group_strategy="norm_and_bias",
        )
    settings = {"clip_grad": True, "clip_norm": 1.0, "ema": EMA(net, ema_decay=0.99), **settings}
    return TrainOneStepWrapper(net, optimizer, scale_sense=Tensor(1.0), **settings)


def losses(training):
    random, values = np.random.default_rng(5), []
    for _ in range(STEPS):
        tokens = random.integers(0, 64, (BATCH, LENGTH + 1)).astype(np.int32)
        values.append(training(Tensor(tokens[:, :-1]), Tensor(tokens[:, 1:]))[0].asnumpy().item())
    return values


@pytest.mark.parametrize("accumulated", [1, 2])
def test_clipping_ema_and_accumulation(accumulated, monkeypatch):
    """Their AdamW counts each batch for its learning rates, and ours each update."""
    settings = {"gradient_accumulation_steps": accumulated}
    theirs = losses(new_training(monkeypatch, offloaded=False, **settings))
    training = new_training(monkeypatch, True, RATES[accumulated - 1 :: accumulated], **settings)
    assert isinstance(training.optimizer, AdamWOffload)
    np.testing.assert_allclose(losses(training), theirs, rtol=1e-6)


def test_clipping_in_the_optimizer_replaces_theirs(monkeypatch):
    clipped = losses(new_training(monkeypatch, offloaded=True))
    monkeypatch.setattr(optim, "AdamW_Refined", functools.partial(AdamWOffload, max_grad_norm=1.0))
    training = new_training(monkeypatch, offloaded=False, clip_grad=False)
    assert training.optimizer.global_norm is not None
    np.testing.assert_allclose(losses(training), clipped, rtol=1e-6)
