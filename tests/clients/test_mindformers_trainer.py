# SPDX-License-Identifier: Apache-2.0

"""MindFormers' whole Trainer, from a configuration to checkpoints and back: a Llama of two layers.

Each training is a process of its own, as a user starts it.
"""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from conftest import ROOT
from mindspore.mindrecord import FileWriter

from mindspore_offload import convert_checkpoint

LOSS = re.compile(r"Epoch:\[\s*(\d+)/\s*\d+\], step:\[\s*(\d+)/\s*\d+\], loss:\[([^/]+)/")
SEQUENCE, VOCABULARY, BATCH, EPOCHS, STEPS = 32, 128, 4, 2, 10
SAVED = "tiny_rank_0-1_5.ckpt"  # after step 5 of epoch 1
BETAS = [0.9, 0.95]
MODEL = {
    "model_config": {
        "type": "LlamaConfig",
        "batch_size": BATCH,
        "seq_length": SEQUENCE,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": VOCABULARY,
        "multiple_of": 32,
        "compute_dtype": "float32",
        "param_init_type": "float32",
        "use_flash_attention": False,
        "fused_rms_norm": False,
        "use_rope_slice": True,
        "checkpoint_name_or_path": "",
    },
    "arch": {"type": "LlamaForCausalLM"},
}
DATA = {
    "data_loader": {"type": "MindDataset", "dataset_dir": None, "shuffle": False},
    "input_columns": ["input_ids"],
    "num_parallel_workers": 1,
    "python_multiprocessing": False,
    "drop_remainder": True,
    "numa_enable": False,
    "prefetch_size": 1,
}
CONFIG = {
    "seed": 42,
    "run_mode": "train",
    "load_checkpoint": "",
    "auto_trans_ckpt": False,
    "only_save_strategy": False,
    "resume_training": False,
    "load_ckpt_format": "ckpt",
    "use_parallel": False,
    "context": {"mode": 0, "device_target": "CPU", "max_call_depth": 10000, "device_id": 0},
    "trainer": {"type": "CausalLanguageModelingTrainer", "model_name": "tiny"},
    "model": MODEL,
    "train_dataset": DATA,
    "train_dataset_task": {"type": "CausalLanguageModelDataset"},
    "runner_config": {"epochs": EPOCHS, "batch_size": BATCH, "sink_mode": False},
    "runner_wrapper": {"type": "MFTrainOneStepCell", "scale_sense": 1.0, "use_clip_grad": True},
    "lr_schedule": {
        "type": "CosineWithWarmUpLR",
        "learning_rate": 1e-3,
        "lr_end": 1e-4,
        "warmup_steps": 3,
        "total_steps": -1,
    },
    "optimizer": {"betas": BETAS, "eps": 1e-8, "weight_decay": 0.1},
    "callbacks": [
        {"type": "MFLossMonitor"},
        {
            "type": "CheckpointMonitor",
            "prefix": "tiny",
            "save_checkpoint_steps": 5,
            "integrated_save": False,
            "async_save": False,
        },
    ],
    "micro_batch_interleave_num": 1,
    "parallel_config": {"data_parallel": 1},
    "recompute_config": {"recompute": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with sequences of numbers, whose next number can be learned."""
    folder = tmp_path_factory.mktemp("trainer")
    (folder / "data").mkdir()
    writer = FileWriter(str(folder / "data" / "tiny.mindrecord"), shard_num=1)
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "tiny")
    random = np.random.default_rng(0)
    size = BATCH * STEPS
    starts, strides = random.integers(3, 60, size), random.integers(1, 3, size)
    sequences = (starts[:, None] + strides[:, None] * np.arange(SEQUENCE + 1)) % (VOCABULARY - 3) + 3
    writer.write_raw_data([{"input_ids": sequence.astype(np.int32)} for sequence in sequences])
    writer.commit()
    return folder


def train(folder, name, kind, **changes):
    """Trains with an optimizer of this type, in a process of its own. Returns its exit status and its output."""
    config = copy.deepcopy({**CONFIG, **changes, "output_dir": str(folder / name)})
    config["optimizer"]["type"] = kind
    config["train_dataset"]["data_loader"]["dataset_dir"] = str(folder / "data")
    config["train_dataset_task"]["dataset_config"] = config["train_dataset"]
    (folder / name).mkdir()
    path = folder / name / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / "trainer.py"), str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def losses(folder, name, kind, **changes):
    """Trains, and returns {(epoch, step): loss} as MindFormers prints them."""
    done = train(folder, name, kind, **changes)
    assert done.returncode == 0, done.stdout[-4000:]
    return {(int(epoch), int(step)): float(loss) for epoch, step, loss in LOSS.findall(done.stdout)}


@pytest.fixture(scope="module")
def theirs(folder):
    """Returns the losses of MindFormers' AdamW, all and those after the checkpoint."""
    values = losses(folder, "theirs", "AdamW")
    assert len(values) == EPOCHS * STEPS
    return values, {step: loss for step, loss in values.items() if step > (1, 5)}


def assert_same(actual, expected):
    """Compares losses, which are printed with six digits; the optimizers round in another order."""
    assert actual.keys() == expected.keys()
    np.testing.assert_allclose(list(actual.values()), list(expected.values()), atol=1e-4)


def test_the_trainer_trains_and_resumes(folder, theirs):
    every, after = theirs
    assert_same(losses(folder, "ours", "AdamWOffload"), every)
    checkpoints = {"load_checkpoint": str(folder / "ours" / "checkpoint"), "resume_training": SAVED}
    assert_same(losses(folder, "resumed", "AdamWOffload", **checkpoints), after)


def test_the_trainer_resumes_from_a_converted_checkpoint(folder, theirs):
    """In the folder and under the name that the page on libraries gives."""
    saved = ms.load_checkpoint(str(folder / "theirs" / "checkpoint" / "rank_0" / SAVED))
    converted = convert_checkpoint(saved, "mindformers.AdamW", *BETAS)
    target = folder / "converted" / "rank_0"
    target.mkdir(parents=True)
    ms.save_checkpoint([{"name": n, "data": p} for n, p in converted.items()], str(target / SAVED))
    checkpoints = {"load_checkpoint": str(target.parent), "resume_training": SAVED}
    assert_same(losses(folder, "from_converted", "AdamWOffload", **checkpoints), theirs[1])


def test_settings_of_the_page_change_no_loss(folder, theirs):
    scale = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 1024, "scale_factor": 2, "scale_window": 5}
    changes = {
        "context": {**CONFIG["context"], "jit_config": {"jit_level": "O1"}},
        "recompute_config": {"recompute": True},
        "runner_wrapper": {**CONFIG["runner_wrapper"], "scale_sense": scale},
        "tensorboard": {"tensorboard_dir": str(folder / "tensorboard"), "tensorboard_queue_size": 10},
    }
    assert_same(losses(folder, "settings", "AdamWOffload", **changes), theirs[0])
    assert list((folder / "tensorboard").rglob("events*"))


def assert_fails(done, message):
    assert done.returncode != 0
    assert message in done.stdout


def test_tensorboard_without_the_norm_of_the_clipping_fails(folder):
    changes = {
        "runner_wrapper": {**CONFIG["runner_wrapper"], "use_clip_grad": False},
        "tensorboard": {"tensorboard_dir": str(folder / "no_norm"), "tensorboard_queue_size": 10},
    }
    assert_fails(train(folder, "no_clipping", "AdamWOffload", **changes), "add_scalar('grad-norm'")


def test_a_file_in_load_checkpoint_fails(folder, theirs):
    path = folder / "theirs" / "checkpoint" / "rank_0" / SAVED
    changes = {"load_checkpoint": str(path), "resume_training": True}
    assert_fails(train(folder, "from_a_file", "AdamWOffload", **changes), "checkpoint_path is not a directory")
