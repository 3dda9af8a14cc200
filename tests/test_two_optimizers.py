# SPDX-License-Identifier: Apache-2.0

"""Two optimizers in one training cell: their states have names of their own, and the training resumes."""

import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
import two_optimizers
from nets import assert_same


@pytest.fixture(scope="module")
def cell():
    return two_optimizers.Adversaries()


def test_names_are_distinct_and_stay(cell):
    before = two_optimizers.names(cell)
    assert len(before) == len(set(before))
    two_optimizers.train(cell, 1)
    assert two_optimizers.names(cell) == before


def test_a_resume_in_a_new_process_gives_the_same_bits(cell, tmp_path):
    two_optimizers.train(cell, 3)
    ms.save_checkpoint(cell, str(tmp_path / "saved.ckpt"))
    program = [sys.executable, two_optimizers.__file__, tmp_path / "saved.ckpt", tmp_path / "continued.npz", 3]
    subprocess.run([str(each) for each in program], check=True)
    assert_same(dict(np.load(tmp_path / "continued.npz")), two_optimizers.train(cell, 3))
