# SPDX-License-Identifier: Apache-2.0

"""The copies of a training step are those that the documentation and the placement report state, to the byte."""

from collections import Counter

import numpy as np
import pytest
from nets import SHAPES, SMALL
from scenarios import FLOAT16, FLOAT32, MIXED

NATIVE = {"host_kernel": "native"}
ADAMW, DECAY, CLIP = {"cls": "AdamWOffload"}, {"weight_decay": 0.1}, {"max_grad_norm": 0.5}

CASES = {
    "float32": (NATIVE, FLOAT32),
    "float16": (NATIVE, FLOAT16),
    "decay-clip-float32": (NATIVE | DECAY | CLIP, FLOAT32),
    "AdamW-scale-mixed": (NATIVE | ADAMW | {"loss_scale": "dynamic"}, MIXED),
    "small-mixed": (NATIVE | {"min_offload_size": 200}, MIXED),
    "skip-groups-float16": (NATIVE | {"skip_nonfinite": True, "groups": True}, FLOAT16),
    "decay-clip-float16": (NATIVE | DECAY | CLIP, FLOAT16),
    "bfloat16-moments-mixed": (NATIVE | {"moment_dtype": "bfloat16"}, MIXED),
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
        on_host = size >= settings.get("min_offload_size", 0)
        penalty = "weight_decay" in settings and "beta" not in name
        down[size_in_bytes] += on_host * (1 if dtype == "float32" else 2) or measured
        if on_host and measured and penalty and dtype == "float32":
            down[size_in_bytes] += 1
        up[size_in_bytes] += on_host
    return {"to_host": +down, "to_device": +up}


@pytest.mark.every_regime
@pytest.mark.parametrize(("settings", "dtypes"), CASES.values(), ids=CASES)
def test_a_step_copies_what_is_documented(settings, dtypes, gpu):
    copies, reported = gpu.run("copies_of_a_step", dtypes=dtypes, **settings)
    expected = documented(settings, dtypes)
    assert expected == {way: Counter(n for w, n in copies if w == way and n > SMALL) for way in expected}
    # The net's own inputs, scalars, travel too.
    inputs = {"to_host": 0, "to_device": sum(np.dtype(dtype).itemsize for dtype in dtypes)}
    assert {way: sum(n for w, n in copies if w == way) for way in expected} == {
        way: reported[way] + inputs[way] for way in expected
    }


@pytest.mark.every_regime
@pytest.mark.parametrize("form", ["one-graph", "functions"])
def test_only_the_last_batch_of_gradient_accumulation_copies_tensors(form, gpu):
    without_update, with_update = gpu.run("accumulation.copies", form, **NATIVE)
    ways = {"to_host", "to_device"}
    assert [(way, n) for way, n in without_update if way in ways and n > SMALL] == []
    expected = documented(NATIVE, FLOAT32)
    assert expected == {way: Counter(n for w, n in with_update if w == way and n > SMALL) for way in expected}
