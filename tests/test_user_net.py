# SPDX-License-Identifier: Apache-2.0

"""``estimate --net`` builds the net of the given file or module, and explains the errors of either."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindspore_offload import commands
from mindspore_offload.commands import main
from mindspore_offload.planning import sizes

SOURCE_TREE = Path(commands.__file__).parents[2]

NETS = """\
from dataclasses import dataclass
import mindspore as ms
from mindspore import nn
import of_the_same_folder
@dataclass
class Shape:
    inputs: int = 3
def dense(inputs=Shape().inputs):
    print("a net prints")
    return nn.Dense(inputs, 2)
def large():
    return nn.SequentialCell([nn.Dense(20000, 20000), nn.LayerNorm((20000,))])
def broken():
    raise ValueError("no configuration\\n  of this net")
def broken_inside():
    return nn.Dense("three", 2)
def refused():
    import mindspore_offload
    return mindspore_offload.AdamOffload([])
def leaves():
    raise SystemExit(3)
def needs(inputs):
    return nn.Dense(inputs, 2)
def frozen():
    net = nn.Dense(3, 2)
    for parameter in net.get_parameters():
        parameter.requires_grad = False
    return net
def nothing():
    return nn.ReLU()
def number():
    return 5
def half():
    net = nn.Dense(3, 2)
    net.weight.set_dtype(ms.float16)
    return net
def double():
    net = nn.Cell()
    net.weight = ms.Parameter(ms.Tensor([1.0], ms.float64), name="weight")
    return net
"""


def line_of(code):
    return NETS[: NETS.index(code)].count("\n") + 1


LINES = {"in_broken": line_of("raise V"), "in_broken_inside": line_of('Dense("three"'), "in_leaves": line_of("raise S")}
LINES["in_refused"] = line_of("return mindspore_offload")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of nets, as the working directory."""
    (tmp_path / "nets_of_a_user.py").write_text(NETS)
    (tmp_path / "of_the_same_folder.py").write_text("")
    (tmp_path / "syntax.py").write_text("import os\ndef build(:\n    pass\n")
    (tmp_path / "imports.py").write_text("\nimport no_such_library.layers\n")
    (tmp_path / "no_text.py").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("nets_of_a_user", "of_the_same_folder", "net_of_user"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("spec", ["nets_of_a_user:dense", "nets_of_a_user.py:dense", "./nets_of_a_user.py:dense"])
def test_a_module_or_a_file_is_built(spec, folder, capsys):
    assert sorted(sizes.of_net(spec)) == [("bias", 2, "float32", 1), ("weight", 6, "float32", 2)]
    printed = capsys.readouterr()
    assert (printed.out, "a net prints" in printed.err) == ("", True)


def test_each_parameter_has_its_dtype(folder):
    assert sorted(sizes.of_net("nets_of_a_user:half")) == [("bias", 2, "float32", 1), ("weight", 6, "float16", 2)]


@pytest.mark.parametrize("name", ["json", "mindspore", "test_user_net", "my.net", "two-words"])
def test_a_file_is_loaded_whatever_its_name_is(name, folder, tmp_path):
    """The name may be that of a loaded module, or one that no module can have."""
    before = sys.modules.get(name)
    nets = tmp_path / "elsewhere"
    nets.mkdir()
    (nets / f"{name}.py").write_text("from mindspore import nn\ndef build():\n    return nn.Dense(5, 7)\n")
    assert sum(size.size for size in sizes.of_net(f"elsewhere/{name}.py:build")) == 5 * 7 + 7
    assert sys.modules.get(name) is before


def test_two_files_of_one_name_are_both_loaded(folder, tmp_path):
    for inputs in (3, 4):
        (tmp_path / f"of_{inputs}").mkdir()
        code = f"from mindspore import nn\ndef build():\n    return nn.Dense({inputs}, 1, has_bias=False)\n"
        (tmp_path / f"of_{inputs}" / "nets.py").write_text(code)
    assert [sizes.of_net(f"of_{inputs}/nets.py:build")[0].size for inputs in (3, 4)] == [3, 4]


def test_a_net_is_built_without_memory_for_its_weights(folder):
    """The net has 1.6 GB of weights. It runs in a new process, to measure its own peak."""
    program = (
        "from mindspore_offload.commands import main\n"
        "main(['estimate', '--net', 'nets_of_a_user:large', '--dtype', 'bfloat16', '--host-gb-s', '10', '--json'])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    *printed, peak = run.stdout.splitlines()
    assert int(peak) * 1024 < 1e9
    report = json.loads("\n".join(printed))
    assert report["parameters"] == 20000 * 20000 + 3 * 20000
    assert report["footprints"]["bfloat16"][0]["host_states"] == 12 * report["parameters"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets", "--net must be module:function, as in models.llama:build, but got 'nets'"),
        ("no_such_module:build", "there is no module 'no_such_module' in {folder} or among the installed ones"),
        ("no_such_package.nets:build", "there is no module 'no_such_package' in {folder}"),
        ("nets_of_a_user.nets:build", "there is no module 'nets_of_a_user.nets'"),
        ("folder/nets:build", "there is no module 'folder/nets'"),
        ("no_such_file.py:build", "there is no file {folder}/no_such_file.py"),
        (
            "imports.py:build",
            "'no_such_library' is not installed, but is imported in {folder}/imports.py, line 2; i",
        ),
        (
            "imports:build",
            "'no_such_library' is not installed, but is imported in {folder}/imports.py, line 2; i",
        ),
        ("syntax.py:build", "{folder}/syntax.py, line 2, is not valid Python: invalid syntax"),
        ("syntax:build", "{folder}/syntax.py, line 2, is not valid Python: invalid syntax"),
        ("no_text.py:build", "is not valid Python"),
        ("nets_of_a_user.py:dens", "nets_of_a_user.py has no function 'dens'; it has "),
        (
            "nets_of_a_user.py:broken",
            "broken() raised ValueError: no configuration in {folder}/nets_of_a_user.py, line {in_broken}; it is",
        ),
        ("nets_of_a_user:broken_inside", " in {folder}/nets_of_a_user.py, line {in_broken_inside}; it is called"),
        ("nets_of_a_user:refused", " in {folder}/nets_of_a_user.py, line {in_refused}; it is called"),
        ("nets_of_a_user:leaves", "SystemExit: 3 in {folder}/nets_of_a_user.py, line {in_leaves}; it is called"),
        ("nets_of_a_user:needs", "missing 1 required positional argument: 'inputs'; it is called without arguments"),
        ("nets_of_a_user:frozen", "returns Dense: of 2 parameters, none has requires_grad=True"),
        ("nets_of_a_user:nothing", "returns ReLU: of 0 parameters, none has requires_grad=True"),
        ("nets_of_a_user:number", "must return a Cell, but got int"),
        (
            "nets_of_a_user:double",
            "'dtype' must be one of ['float32', 'float16', 'bfloat16'] for the parameter 'weight' of float64",
        ),
    ],
    ids=lambda value: value.replace("/", "-") if ":" in value and " " not in value else "",
)
def test_errors_are_one_line(spec, message, folder, capsys):
    assert main(["estimate", "--net", spec, "--host-gb-s", "40"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message.format(folder=folder, **LINES) in printed.err
    assert printed.err.count("\n") == 1
