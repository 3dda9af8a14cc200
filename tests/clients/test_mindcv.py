# SPDX-License-Identifier: Apache-2.0

"""MindCV: a ResNet-18 and a ViT by its factories, with its clipping, EMA, accumulation and layer-wise decay."""

import mindspore as ms
import numpy as np
import pytest
from mindcv.models import create_model
from mindcv.models.vit import VisionTransformer
from mindcv.optim import create_optimizer, optim_factory
from mindcv.utils import create_trainer
from mindspore import nn
from mindspore.dataset import NumpySlicesDataset

from mindspore_offload import AdamWOffload, convert_checkpoint

BATCH, ACCUMULATED, UPDATES = 16, 2, 4
RATES = [1e-5 * (i + 1) for i in range(ACCUMULATED * UPDATES)]


class Losses(ms.train.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_step_end(self, run_context):
        self.values.append(run_context.original_args().net_outputs.asnumpy().item())


def losses(net, optimizer, size, steps=ACCUMULATED * UPDATES, **settings):
    """Trains on the same random images in each step, by MindCV's trainer, and returns the losses."""
    random = np.random.default_rng(5)
    images = random.standard_normal((BATCH, 3, size, size)).astype(np.float32)
    labels = random.integers(0, 10, BATCH).astype(np.int32)
    data = NumpySlicesDataset((np.tile(images, (steps, 1, 1, 1)), np.tile(labels, steps)), shuffle=False)
    trainer = create_trainer(
        network=net,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        metrics={"Top_1_Accuracy": nn.Top1CategoricalAccuracy()},
        amp_level="O0",
        amp_cast_list=None,
        loss_scale_type="fixed",
        **settings,
    )
    kept = Losses()
    trainer.train(1, data.batch(BATCH), callbacks=kept, dataset_sink_mode=False)
    return kept.values


def adamw_of(net, monkeypatch, offloaded, **arguments):
    """Returns what MindCV's factory makes of "adamw"."""
    with monkeypatch.context() as patch:
        if offloaded:
            patch.setattr(optim_factory, "AdamW", AdamWOffload)
        optimizer = create_optimizer(net, opt="adamw", weight_decay=0.05, **arguments)
    assert isinstance(optimizer, AdamWOffload) == offloaded
    return optimizer


@pytest.mark.parametrize("accumulated", [1, ACCUMULATED])
def test_resnet_with_clipping_and_ema(accumulated, monkeypatch):
    """MindCV's AdamW counts each batch for its learning rates, and ours each update."""
    ends = []
    for offloaded in (False, True):
        ms.set_seed(1)
        net = create_model("resnet18", num_classes=10)
        rates = RATES[accumulated - 1 :: accumulated] if offloaded else RATES
        optimizer = adamw_of(net, monkeypatch, offloaded, lr=rates, weight_decay_filter="norm_and_bias")
        settings = {"ema": True, "clip_grad": True, "clip_value": 1.0, "gradient_accumulation_steps": accumulated}
        ends.append(losses(net, optimizer, size=32, **settings))
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=2e-4)
    assert ends[0][-1] < 0.5 * ends[0][0]


@pytest.mark.parametrize("ema", [False, True], ids=["model", "own-cell"])
def test_who_divides_by_a_fixed_loss_scale(ema):
    """The optimizer, unless MindCV trains with a cell of its own. The norm is that of the gradients without a scale."""

    def norm(scale, **arguments):
        ms.set_seed(1)
        net = nn.SequentialCell(nn.Flatten(), nn.Dense(3 * 4 * 4, 10))
        optimizer = AdamWOffload(net.trainable_params(), max_grad_norm=1.0, **arguments)
        losses(net, optimizer, size=4, steps=1, loss_scale=scale, ema=ema)
        return optimizer.global_norm.asnumpy().item()

    np.testing.assert_allclose(norm(1024.0, loss_scale=1.0 if ema else 1024.0), norm(1.0), rtol=1e-5)


def vit():
    ms.set_seed(1)
    return VisionTransformer(image_size=32, patch_size=16, embed_dim=24, depth=3, num_heads=3, num_classes=10)


def test_a_vit_with_layer_wise_decay_and_a_converted_checkpoint(monkeypatch, tmp_path):
    """Each layer has its own list of learning rates."""
    nets = vit(), vit(), vit()
    theirs, ours, converted = (
        adamw_of(net, monkeypatch, offloaded, lr=RATES * 2, layer_decay=0.75)
        for net, offloaded in zip(nets, (False, True, True))
    )
    assert len({parameter.name for parameter in ours.get_parameters() if "learning_rate" in parameter.name}) > 1
    first = losses(nets[0], theirs, size=32)
    np.testing.assert_allclose(losses(nets[1], ours, size=32), first, rtol=1e-5)

    ms.save_checkpoint(theirs, str(tmp_path / "adamw.ckpt"))
    checkpoint = convert_checkpoint(ms.load_checkpoint(str(tmp_path / "adamw.ckpt")), "mindcv.AdamW")
    assert ms.load_param_into_net(converted, checkpoint, strict_load=True) == ([], [])
    then = losses(nets[0], theirs, size=32)
    assert then != first
    np.testing.assert_allclose(losses(nets[2], converted, size=32), then, rtol=1e-5)
