# SPDX-License-Identifier: Apache-2.0

"""MindSpore's compile cache keeps a graph for the next process, whose package may be elsewhere or another version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mindspore import dtype as mstype

import mindspore_offload
from mindspore_offload import host, native_library

PACKAGE = Path(mindspore_offload.__file__).parent

TRAIN = """
import os, sys
sys.path.insert(0, os.environ["PLACE"])
import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore_offload import AdamOffload

class Net(nn.Cell):
    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0]), name="weight")

    def construct(self, x):
        return (self.weight * x).sum()

ms.set_context(mode=ms.GRAPH_MODE, enable_compile_cache=True, compile_cache_path="cache")
net = Net()
step = nn.TrainOneStepCell(net, AdamOffload(net.trainable_params(), learning_rate=0.5, host_kernel="native"))
step(Tensor([1.0, -1.0]))
print(net.weight.asnumpy().round(3).tolist())
print({line.split()[-1] for line in open("/proc/self/maps") if "libmindspore_offload.so" in line})
"""


def train(folder):
    """Runs the program with the package in `folder`, in the folder above it."""
    # Without the paths that tests before this one have set: a stale graph would find its library by one of them.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MINDSPORE_OFFLOAD_LIBRARY")
    }
    return subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder.parent,
        env={**environment, "PLACE": str(folder)},
        capture_output=True,
        text=True,
    )


def assert_trains(folder):
    process = train(folder)
    weights, libraries = process.stdout.splitlines()[-2:]
    assert weights == "[0.5, 2.5]"  # the first step of Adam is the learning rate, against the sign of the gradient
    assert libraries == str({str(folder / "mindspore_offload/libmindspore_offload.so")})
    return process.stderr


@pytest.mark.full
@pytest.mark.parametrize("old_is_gone", [True, False], ids=["gone", "stays"])
def test_the_package_moves(old_is_gone, tmp_path):
    """The graph of the cache runs the library of the package that is imported. After an upgrade, it is refused.

    The new folder has a colon, with which `ops.Custom` separates a path from a function.
    """
    (tmp_path / "train.py").write_text(TRAIN)
    shutil.copytree(PACKAGE, tmp_path / "old" / PACKAGE.name)
    assert_trains(tmp_path / "old")
    if old_is_gone:
        (tmp_path / "old").rename(tmp_path / "new:2")
    else:
        shutil.copytree(tmp_path / "old", tmp_path / "new:2")
    assert "Use the compilation cache" in assert_trains(tmp_path / "new:2")

    with open(tmp_path / "new:2" / PACKAGE.name / "_version.py", "a") as file:
        file.write("# another version\n")
    upgraded = train(tmp_path / "new:2")
    assert upgraded.returncode != 0
    assert "IF_MISSING_DELETE_THE_COMPILE_CACHE" in upgraded.stderr


def test_no_path_is_in_the_graph():
    operation = host.NativeOperation("AdamInPlace", (1,), mstype.float32)
    assert str(PACKAGE) not in str(operation.get_attr_dict())
    assert os.environ[operation.get_attr_dict()["func_name"].partition(":")[0]] == str(native_library.PATH)
