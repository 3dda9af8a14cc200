# SPDX-License-Identifier: Apache-2.0

"""The copies of a training step are those that the documentation and the placement report state, to the byte."""

from collections import Counter

import pytest
from checks import COPIES, NATIVE, documented, step_copies_what_is_documented
from conftest import table
from nets import SMALL
from scenarios import FLOAT32


@pytest.mark.every_regime
@table(COPIES, "float32", "float16", "ratio-0.6-mixed")
def test_a_step_copies_what_is_documented(settings, dtypes, gpu):
    step_copies_what_is_documented(gpu, settings, dtypes)


@pytest.mark.full
@pytest.mark.every_regime
@pytest.mark.parametrize("form", ["one-graph", "functions"])
def test_only_the_last_batch_of_gradient_accumulation_copies_tensors(form, gpu):
    without_update, with_update = gpu.run("accumulation.copies", form, **NATIVE)
    ways = {"to_host", "to_device"}
    assert [(way, n) for way, n in without_update if way in ways and n > SMALL] == []
    expected = documented({}, FLOAT32)
    assert expected == {way: Counter(n for w, n in with_update if w == way and n > SMALL) for way in expected}
