# SPDX-License-Identifier: Apache-2.0

"""MindFormers: a small transformer by its schedules, parameter groups, YAML files and training cell."""

import contextlib

import mindspore as ms
import numpy as np
import pytest
from conftest import ROOT
from gpt import GPT, Loss
from mindformers.core.lr import build_lr
from mindformers.core.optim import build_optim
from mindformers.tools.register import MindFormerConfig
from mindformers.trainer.optimizer_grouped_parameters import get_optimizer_grouped_parameters
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, ops
from mindspore.nn.utils import no_init_parameters
from nets import assert_same, parameters_of

from mindspore_offload import AdamWOffload, convert_checkpoint, mindformers

YAML = ROOT / "examples" / "mindformers" / "adamw_offload.yaml"
LENGTH, BATCH = 16, 4
BETAS = [0.9, 0.95]


class TrainOneStep(MFTrainOneStepCell):
    """MindFormers' training cell without the overflow check, which is an operation of Ascend."""

    def get_overflow_status(self, status, compute_output):
        return ops.depend(False, compute_output)


def new_training(kind, clips=True, seed=1, **arguments):
    """Returns a training cell of MindFormers. Its optimizer is built as MindFormers' trainer builds it."""
    ms.set_seed(seed)
    net = Loss(GPT(layers=2, width=48, heads=6, length=LENGTH)).set_train()
    schedule = build_lr(MindFormerConfig(str(YAML)).lr_schedule)
    groups = get_optimizer_grouped_parameters(net, 0.1, schedule)
    arguments = {"type": kind, "eps": 1e-8, "weight_decay": 0.1, **arguments}
    optimizer = build_optim(arguments, default_args={"params": groups, "learning_rate": schedule})
    return TrainOneStep(net, optimizer, use_clip_grad=clips, max_grad_norm=1.0)


def losses(training, first, last):
    """Trains on random tokens, which depend on the step alone, and returns the losses."""
    values = []
    for step in range(first, last):
        tokens = np.random.default_rng([3, step]).integers(0, 64, (BATCH, LENGTH + 1)).astype(np.int32)
        values.append(training(Tensor(tokens[:, :-1]), Tensor(tokens[:, 1:]))[0].asnumpy().item())
    return values


def load(training, checkpoint):
    return ms.load_param_into_net(training, checkpoint, strict_load=True)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Their AdamW: 20 losses, and the path of a checkpoint after ten steps."""
    path = str(tmp_path_factory.mktemp("theirs") / "adamw.ckpt")
    training = new_training("AdamW", betas=BETAS)
    values = losses(training, 0, 10)
    ms.save_checkpoint(training, path)
    return values + losses(training, 10, 20), path


def assert_same_losses(actual, expected):
    """Compares to a unit in the last place of float32, about 1e-7: the two round some moments and weights otherwise."""
    np.testing.assert_array_max_ulp(np.float32(actual), np.float32(expected), 1)


def test_20_steps_have_the_losses_of_their_adamw_and_a_resume_has_the_same_bits(theirs, tmp_path):
    training = new_training("AdamWOffload", betas=BETAS)
    assert isinstance(training.optimizer, AdamWOffload)
    first = losses(training, 0, 10)
    ms.save_checkpoint(training, str(tmp_path / "ours.ckpt"))
    then = losses(training, 10, 20)
    assert_same_losses(first + then, theirs[0])

    resumed = new_training("AdamWOffload", betas=BETAS, seed=2)
    assert load(resumed, ms.load_checkpoint(str(tmp_path / "ours.ckpt"))) == ([], [])
    assert losses(resumed, 10, 20) == then
    assert_same(parameters_of(resumed), parameters_of(training))


@pytest.mark.parametrize("delayed", [False, True], ids=["initialized", "delayed-initialization"])
def test_a_checkpoint_of_their_adamw_goes_on(theirs, delayed):
    """Also as MindFormers' trainer does it if nothing is initialized before the checkpoint is loaded."""
    values, path = theirs
    with no_init_parameters() if delayed else contextlib.nullcontext():
        training = new_training("AdamWOffload", betas=BETAS, seed=2)
    assert load(training, convert_checkpoint(ms.load_checkpoint(path), "mindformers.AdamW", *BETAS)) == ([], [])
    if delayed:
        training.network.init_parameters_data()
        training.optimizer.init_parameters_data()
    assert_same_losses(losses(training, 10, 14), values[10:14])


def test_a_checkpoint_of_their_adamw_that_was_not_converted_is_noticed(theirs):
    training = new_training("AdamWOffload", betas=BETAS)
    ms.load_param_into_net(training, ms.load_checkpoint(theirs[1]))
    with pytest.warns(UserWarning, match="the moments are zero, although global_step is 10"):
        losses(training, 10, 11)


def test_a_yaml_file_registers_and_builds(monkeypatch, theirs):
    """With `auto_register`. MindFormers clips, because its loss monitor needs the norm."""
    monkeypatch.setenv("REGISTER_PATH", str(YAML.parent))
    config = MindFormerConfig(str(YAML))
    clips = config.runner_wrapper.use_clip_grad
    training = new_training(clips=clips, kind=config.optimizer.pop("type"), **config.optimizer)
    optimizer = training.optimizer
    assert type(optimizer).__name__ == "AdamWOffload"
    assert clips
    assert optimizer.global_norm is None
    np.testing.assert_allclose([optimizer.beta1.asnumpy(), optimizer.beta2.asnumpy()], BETAS, rtol=1e-6)
    assert_same_losses(losses(training, 0, 10), theirs[0][:10])


def test_clipping_in_the_optimizer_replaces_theirs(theirs):
    training = new_training("AdamWOffload", clips=False, betas=BETAS, max_grad_norm=1.0)
    np.testing.assert_allclose(losses(training, 0, 10), theirs[0][:10], rtol=1e-6)


def test_adam_offload_trains_like_their_adam():
    ours, adam = (new_training(kind) for kind in ("AdamOffload", "Adam"))
    np.testing.assert_allclose(losses(ours, 0, 20), losses(adam, 0, 20), rtol=1e-5)


def test_own_keywords():
    optimizer = new_training("AdamWOffload", betas=BETAS, moment_dtype="bfloat16", min_offload_size=100).optimizer
    assert {moment.dtype for moment in optimizer.moment1} == {ms.float32, ms.bfloat16}
    with pytest.raises(ValueError, match=r"'moment_dtype' must be one of \[mindspore\.float32, .* but got 'f'"):
        new_training("AdamWOffload", moment_dtype="f")


@pytest.mark.parametrize("betas", [0.9, [0.9], [0.9, 0.95, 0.99]], ids=str)
def test_betas_that_are_no_pair_are_refused(betas):
    with pytest.raises(ValueError, match=r"'betas' must be a list of two floats, but got .*0.9"):
        mindformers.AdamWOffload([], betas=betas)


def test_the_optimizer_itself_still_refuses_betas():
    with pytest.raises(TypeError, match="there is no argument 'betas'; write beta1 and beta2"):
        AdamWOffload([], betas=BETAS)
