# SPDX-License-Identifier: Apache-2.0

"""A training step costs the sum of its parts, as the documentation states and draws it."""

import pytest
from conftest import REGIMES
from timeline import LANES, logged_step, overlap, total

pytestmark = pytest.mark.full


def test_copies_take_turns_with_all_else(regime, tmp_path):
    """Only the few operations that are launched just before a host operation run beside it."""
    milliseconds, lanes = logged_step(*REGIMES[regime], tmp_path, layers=4, width=1024, product_ms=2)
    busy = {lane: total(lanes[lane]) for lane in LANES}
    assert min(busy.values()) > 0
    assert overlap(lanes) < 0.2 * milliseconds
    lanes["host"] = []
    assert overlap(lanes) < 0.1 * min(busy["to_host"], busy["to_device"])


def test_the_copies_fall_with_the_ratio(tmp_path):
    """Half of four equal layers is on the host. The copies take the times of the pace."""
    copies = {}
    for ratio in (1.0, 0.5, 0.0):
        folder = tmp_path / str(ratio)
        folder.mkdir()
        _, lanes = logged_step("O0", 1, folder, layers=4, width=1024, product_ms=2, offload_ratio=ratio)
        copies[ratio] = total(lanes["to_host"]) + total(lanes["to_device"])
    assert copies[0.5] == pytest.approx(copies[1.0] / 2, rel=0.2)
    assert copies[0.0] < 0.1 * copies[1.0]


def test_the_copies_use_pageable_memory(tmp_path):
    """MindSpore's host memory is not pinned. A copy then goes through a buffer of the driver, and the host waits."""
    logged_step("O0", 1, tmp_path, layers=1, width=256, product_ms=1)
    copies = [line.split() for line in (tmp_path / "log").read_text().splitlines() if line.startswith("to_")]
    assert len(copies) > 0
    assert {memory for _, _, memory, _, _ in copies} == {"pageable"}
