# SPDX-License-Identifier: Apache-2.0

"""The benchmark trains the nets that it names, with the optimizers that it names."""

import math
import re
import sys
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end, so that the package is the one that is tested

from benchmarks import nets, rivals, training  # noqa: E402
from benchmarks.resnet import ResNet  # noqa: E402

pytestmark = pytest.mark.newest("the benchmark is not part of the package")


def test_bert_has_the_parameters_of_bert_base():
    """The encoder of Devlin and others, without its two segments and its pooler, and an output layer of its own."""
    words, hidden, wide, positions = 30522, 768, 3072, 512
    norm = 2 * hidden
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * wide + wide + hidden + 2 * norm
    head = hidden * hidden + hidden + norm + hidden * words + words
    expected = words * hidden + positions * hidden + norm + 12 * layer + head
    assert sum(map(math.prod, nets.bert_shapes())) == expected


def test_resnet_has_the_parameters_of_resnet_50():
    """25,557,032, as all frameworks' ResNet-50 with 1000 classes."""
    with no_init_parameters():
        net = ResNet(**nets.RESNET_50)
    assert sum(parameter.size for parameter in net.trainable_params()) == 25_557_032


@pytest.mark.parametrize(
    "net", ["dense", *(pytest.param(net, marks=pytest.mark.full) for net in training.NETS if net != "dense")]
)
def test_a_tiny_net_trains(net):
    trained = training.train(net, "AdamOffload", 2, tiny=True)
    assert len(trained["seconds"]) == 2
    assert min(trained["seconds"]) > 0
    assert trained["compile_s"] > trained["first_step_s"] > 0  # the first step compiles nothing
    assert trained["peak_mb"] > 100


@pytest.mark.full
def test_the_table_of_a_training(monkeypatch):
    monkeypatch.setitem(training.NETS, "dense", ("dense", (training.ALONE, "AdamOffload"), 0))
    table = training.measure("dense", {"steps": 5, "rounds": 2, "tiny": True})
    assert (table["params"], table["tensors"], table["steps"], table["rounds"]) == (2 * (64 * 64 + 64), 4, 6, 2)
    alone, ours = table["rivals"]
    assert (alone["name"], ours["name"]) == (training.ALONE, "AdamOffload")
    assert alone["optimizer_share"] == 0
    assert ours["optimizer_share"] == pytest.approx(1 - alone["ms"] / ours["ms"])
    assert alone["relative"] == pytest.approx(alone["ms"] / ours["ms"])
    assert ours["relative"] == 1


@pytest.mark.full
def test_forward_and_backward_alone_computes_all_gradients(tmp_path):
    """Two layers need two products forward and three backward, and a gradient of each bias."""
    network, inputs = nets.build("dense", tiny=True)
    alone = nn.TrainOneStepCell(network, rivals.NoOptimizer(network.trainable_params()))
    ms.set_context(save_graphs=1, save_graphs_path=str(tmp_path))
    try:
        alone.compile(*inputs)
    finally:
        ms.set_context(save_graphs=0)
    *_, last = sorted(tmp_path.rglob("graph_build_*.ir"))
    graph = last.read_text()
    assert [len(re.findall(rf"= (?:PrimFunc_)?{name}\(", graph)) for name in ("MatMul", "BiasAddGrad")] == [5, 2]
