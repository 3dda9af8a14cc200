# SPDX-License-Identifier: Apache-2.0

"""Checks of a training on the second memory, and their cases. The tests and the mutants share them."""

from collections import Counter

import numpy as np
from nets import SHAPES, SMALL
from scenarios import FLOAT16, FLOAT32, MIXED

NATIVE = {"host_kernel": "native"}
ADAMW, DECAY, CLIP = {"cls": "AdamWOffload"}, {"weight_decay": 0.1}, {"max_grad_norm": 0.5}

# Arguments of an optimizer and a dtype for each parameter, here and below.
COPIES = {
    "float32": ({}, FLOAT32),
    "float16": ({}, FLOAT16),
    "decay-clip-float32": (DECAY | CLIP, FLOAT32),
    "AdamW-scale-mixed": (ADAMW | {"loss_scale": "dynamic"}, MIXED),
    "small-mixed": ({"min_offload_size": 200}, MIXED),
    "ratio-0.8-float32": ({"offload_ratio": 0.8}, FLOAT32),
    "ratio-0.6-mixed": ({"offload_ratio": 0.6}, MIXED),
    "ratio-0.6-decay-clip-float16": ({"offload_ratio": 0.6} | DECAY | CLIP, FLOAT16),
    "ratio-0-float16": ({"offload_ratio": 0.0}, FLOAT16),
    "skip-groups-float16": ({"skip_nonfinite": True, "groups": True}, FLOAT16),
    "decay-clip-float16": (DECAY | CLIP, FLOAT16),
    "bfloat16-moments-mixed": ({"moment_dtype": "bfloat16"}, MIXED),
}

# The elements of the largest parameter that stays on the device with each ratio: of 1070, 130, 410 or all stay.
LARGEST_KEPT = {0.8: 129, 0.6: 280, 0.0: 660}

# Every pair of values that could matter together.
TRAININGS = {
    "plain-float32": ({}, FLOAT32),
    "plain-mixed": ({}, MIXED),
    "decay-clip-float32": ({"weight_decay": 0.1, "max_grad_norm": 0.5}, FLOAT32),
    "decay-scale-float16": ({"weight_decay": 0.1, "loss_scale": 8.0}, FLOAT16),
    "clip-nesterov-mixed": ({"max_grad_norm": 0.5, "use_nesterov": True}, MIXED),
    "nesterov-locking-float16": ({"use_nesterov": True, "use_locking": True}, FLOAT16),
    "AdamW-float32": ({"cls": "AdamWOffload"}, FLOAT32),
    "AdamW-clip-float16": ({"cls": "AdamWOffload", "max_grad_norm": 0.5}, FLOAT16),
    "groups-float32": ({"groups": True}, FLOAT32),
    "groups-falling-float16": ({"groups": True, "learning_rate": "falling"}, FLOAT16),
    "falling-growing-float32": ({"learning_rate": "falling", "weight_decay": "growing"}, FLOAT32),
    "listed-mixed": ({"learning_rate": "listed"}, MIXED),
    "bfloat16-moments-decay-mixed": ({"moment_dtype": "bfloat16", "weight_decay": 0.1}, MIXED),
    "bfloat16-moments-AdamW-clip-float32": (
        {"moment_dtype": "bfloat16", "cls": "AdamWOffload", "max_grad_norm": 0.5},
        FLOAT32,
    ),
}
DTYPES = {"float32": ({}, FLOAT32), "float16": ({}, FLOAT16)}


def step_copies_what_is_documented(gpu, settings, dtypes):
    copies, reported = gpu.run("copies_of_a_step", dtypes=dtypes, **NATIVE, **settings)
    expected = documented(settings, dtypes)
    assert expected == {way: Counter(n for w, n in copies if w == way and n > SMALL) for way in expected}
    # The net's own inputs, scalars, travel too.
    inputs = {"to_host": 0, "to_device": sum(np.dtype(dtype).itemsize for dtype in dtypes)}
    assert {way: sum(n for w, n in copies if w == way) for way in expected} == {
        way: reported[way] + inputs[way] for way in expected
    }


def documented(settings, dtypes):
    """The copies of tensors in each direction, as counts by bytes.

    Down travel the gradient and, of 16 bits, the weight; up, the result. With an L2 penalty and a norm, a float32
    gradient travels twice: the norm is of the gradient itself, and the device adds the penalty for the update.
    """
    down, up = Counter(), Counter()
    measured = "max_grad_norm" in settings or "skip_nonfinite" in settings
    for (name, shape), dtype in zip(SHAPES.items(), dtypes):
        size = int(np.prod(shape))
        size_in_bytes = size * np.dtype(dtype).itemsize
        if size_in_bytes <= SMALL:
            continue
        kept = LARGEST_KEPT.get(settings.get("offload_ratio"), 0)
        on_host = size > kept and size >= settings.get("min_offload_size", 0)
        penalty = "weight_decay" in settings and "beta" not in name
        down[size_in_bytes] += on_host * (1 if dtype == "float32" else 2) or measured
        if on_host and measured and penalty and dtype == "float32":
            down[size_in_bytes] += 1
        up[size_in_bytes] += on_host
    return {"to_host": +down, "to_device": +up}


def trains_as_on_the_cpu(gpu, cpu, settings, dtypes):
    arguments = {"dtypes": dtypes, **NATIVE, **settings}
    assert_same_bits(gpu.run("train", **arguments), cpu("train", **arguments))


def weight_written_outside_wins(gpu, cpu, way, settings, dtypes):
    arguments = {"way": way, "written": "second.weight", "dtypes": dtypes, **NATIVE, **settings}
    assert_same_bits(gpu.run("outside_write", **arguments), cpu("outside_write", **arguments))


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    different = [name for name, value in actual.items() if value.tobytes() != expected[name].tobytes()]
    assert different == []


def assert_close(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
