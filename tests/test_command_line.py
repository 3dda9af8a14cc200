# SPDX-License-Identifier: Apache-2.0

"""Each command ends in one line of error, whatever it is given, and wherever its output goes."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from merging import run_command

from mindspore_offload import commands
from mindspore_offload.commands import main
from mindspore_offload.diagnosis import examination
from mindspore_offload.diagnosis.finding import OK, Finding

SOURCE_TREE = Path(commands.__file__).parents[2]

VALUES = {
    "empty": "",
    "dashes": "--",
    "minus": "-1",
    "nan": "nan",
    "infinite": "inf",
    "too-large": "1e999",
    "many-digits": "9" * 5000,
    "too-small": "1e-320",
    "tiny": "1e-30",
    "chinese": "模型",
    "no-utf-8": "\udcff",
    "two-lines": "a\nb",
    "folder": "folder",
    "missing": "missing.ckpt",
    "device": "/dev/full",
    "colon": ":",
    "no-function": "folder:",
    "no-module": ":build",
    "folder-as-module": "folder:build",
    "relative-module": "..:build",
    "folder-as-file": "folder.py:build",
}
SPEED, MODEL = "--host-gb-s=40", "--params=1e3"
ESTIMATE = ["estimate", "--json"]
# The text before the value, and the right values.
PLACES = {
    "params": ([*ESTIMATE, SPEED, "--params="], ()),
    "checkpoint": ([*ESTIMATE, SPEED, "--checkpoint="], ()),
    "net": ([*ESTIMATE, SPEED, "--net="], ()),
    "dtype": ([*ESTIMATE, SPEED, MODEL, "--dtype="], ()),
    "moment-dtype": ([*ESTIMATE, SPEED, MODEL, "--moment-dtype="], ()),
    "writeback": ([*ESTIMATE, SPEED, MODEL, "--writeback="], ()),
    "max-grad-norm": ([*ESTIMATE, SPEED, MODEL, "--max-grad-norm="], ("tiny",)),
    "min-offload-size": ([*ESTIMATE, SPEED, MODEL, "--min-offload-size="], ()),
    "model-parallel": ([*ESTIMATE, SPEED, MODEL, "--model-parallel="], ()),
    "devices": ([*ESTIMATE, SPEED, MODEL, "--devices="], ()),
    "link-gb-s": ([*ESTIMATE, SPEED, MODEL, "--link-gb-s="], ()),
    "host-gb-s": ([*ESTIMATE, MODEL, "--host-gb-s="], ()),
    "json": (["estimate", SPEED, MODEL, "--json="], ()),
    "doctor": (["doctor", ""], ()),
    "command": ([""], ()),
    "file": (["merge", "-o", "whole.ckpt", ""], ()),
    "output": (["merge", "folder.py", "--output="], ()),
    "o": (["merge", "folder.py", "-o"], ()),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with two folders and no file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("folder", None)


@pytest.mark.parametrize(("before", "right"), PLACES.values(), ids=PLACES)
def test_a_wrong_value_ends_in_one_line(before, right, folder, capsys):
    for name, value in VALUES.items():
        status = run_command(*before[:-1], before[-1] + value)
        printed = capsys.readouterr()
        if name in right:
            assert (status, printed.err) == (0, "")
            json.loads(printed.out, parse_constant=pytest.fail)  # Infinity and NaN are no JSON
        else:
            assert (status, printed.out, printed.err.count("\n")) == (2, "", 1), name
            assert printed.err.startswith("python -m mindspore_offload"), name
    assert sorted(path.name for path in folder.iterdir()) == ["folder", "folder.py"]


def test_a_folder_may_have_a_colon_in_its_name(folder, capsys):
    nets = folder / "a:b"
    nets.mkdir()
    (nets / "nets.py").write_text("from mindspore import nn\ndef build():\n    return nn.Dense(3, 2)\n")
    assert main([*ESTIMATE, SPEED, "--net", "a:b/nets.py:build"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 8
    assert run_command(*ESTIMATE, SPEED, "--checkpoint", "a:b/model.ckpt") == 2
    assert "--checkpoint 'a:b/model.ckpt' can't be read: No such file" in capsys.readouterr().err


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


UNWRITABLE = {
    "full": (Full, "No space left on device"),
    "closed": (closed, "it is closed"),
    "none": (lambda: None, "it is closed"),
}
PRINTING = {
    "estimate": ["estimate", SPEED, MODEL],
    "estimate-json": [*ESTIMATE, SPEED, MODEL],
    "doctor": ["doctor"],
    "doctor-json": ["doctor", "--json"],
    "help": ["--help"],
    "help-of-merge": ["merge", "--help"],
    "version": ["--version"],
}


@pytest.mark.parametrize(("stream", "reason"), UNWRITABLE.values(), ids=UNWRITABLE)
@pytest.mark.parametrize("arguments", PRINTING.values(), ids=PRINTING)
def test_a_result_that_can_not_be_printed_is_an_error(arguments, stream, reason, monkeypatch, capsys):
    monkeypatch.setattr(examination, "findings", lambda: [Finding("all", OK, "right")])
    monkeypatch.setattr(sys, "stdout", stream())
    assert run_command(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.endswith(f": the standard output can't be written: {reason}\n")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("stream", [stream for stream, _ in UNWRITABLE.values()], ids=UNWRITABLE)
def test_an_error_that_can_not_be_printed_has_a_status(stream, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", stream())
    assert run_command("estimate", "--params=0") == 2
    assert run_command("estimate", SPEED, "--checkpoint=missing.ckpt") == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_can_not_be_printed_are_escaped(encoding, monkeypatch):
    monkeypatch.setattr(examination, "findings", lambda: [Finding("all", OK, "模型 \udcff")])
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    assert main(["doctor"]) == 0
    model = "模型" if encoding == "utf-8" else r"\u6a21\u578b"
    assert rf"{model} \udcff" in content.getvalue().decode(encoding)


@pytest.mark.parametrize("redirection", [">/dev/full", ">/dev/full 2>/dev/full"])
def test_the_program_prints_no_second_error_at_its_end(redirection):
    """Python writes once more what is left in the buffers of the streams."""
    command = f"{sys.executable} -m mindspore_offload estimate {SPEED} {MODEL} {redirection}"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    program = subprocess.run(command, shell=True, env=environment, stderr=subprocess.PIPE, text=True)
    assert (program.returncode, program.stderr.count("\n")) == (2, 0 if "2>" in redirection else 1)


def test_a_temporary_folder_that_can_not_be_made_is_an_error(monkeypatch, capsys):
    def refuse():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.delenv("MS_OM_PATH", raising=False)
    monkeypatch.setattr(commands.tempfile, "TemporaryDirectory", refuse)
    assert main(["doctor"]) == 2
    assert "no temporary folder can be made: No usable temporary directory found; set TMPDIR" in capsys.readouterr().err
