# SPDX-License-Identifier: Apache-2.0

"""A new element type or moment format does not compile before it has its own cases, and needs one row in Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "mindspore_offload" / "csrc"
ENUMS = {
    "element": ("tensors.h", "enum class Element { kFloat32, kFloat16, kBFloat16"),
    "moment-format": ("moments.h", "enum class MomentFormat { kFloat32, kBFloat16"),
}


def compiles(folder):
    """Returns whether the loops of the kernel compile, and what the compiler printed."""
    command = ["g++", f"@{folder}/compile_flags.txt", "-fsyntax-only", str(folder / "implementation.cc")]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode == 0, run.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("kind", ENUMS)
def test_a_value_without_a_case_does_not_compile(kind, tmp_path):
    folder = tmp_path / "csrc"
    shutil.copytree(SOURCES, folder)
    assert compiles(folder) == (True, "")
    name, declaration = ENUMS[kind]
    text = (folder / name).read_text()
    assert declaration in text
    (folder / name).write_text(text.replace(declaration, declaration + ", kNew"))
    succeeded, printed = compiles(folder)
    assert not succeeded
    assert "kNew" in printed


def test_a_moment_format_needs_one_row_in_python(tmp_path):
    script = Path(__file__).with_name("new_format.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
