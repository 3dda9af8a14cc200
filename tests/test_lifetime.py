# SPDX-License-Identifier: Apache-2.0

"""The states' memory comes back when their optimizer goes, however long the net lives."""

import gc
import weakref

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload

pytestmark = pytest.mark.newest("2.7 keeps the parameters of the graphs that it compiled")


@pytest.fixture(scope="module")
def weight():
    """Lives on, as the weight of a net for which optimizers are made again and again."""
    return Parameter(Tensor(np.ones(3), ms.float16), name="weight")


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def _mode(request):
    ms.set_context(mode=request.param)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.usefixtures("_mode")
def test_states_go_before_the_next_optimizer_runs(weight):
    """MindSpore keeps the parameters of the graph that it compiled last. It collects garbage before it compiles."""
    before, after = AdamOffload([weight]), AdamOffload([weight])
    gradients = (Tensor(np.ones(3, np.float32)),)
    before(gradients)
    held = before.moment1[0]
    value = held.asnumpy().copy()
    optimizer, *states = map(weakref.ref, (before, before.moment2[0], before.master[0], before.global_step))
    del before
    assert optimizer() is None  # without the garbage collector
    clones = [clone.name for clone in weight.param_info.cloned_obj]
    assert clones == ["moment1.weight", "moment2.weight", "master.weight"]
    after(gradients)
    assert [state() for state in states] == [None, None, None]
    np.testing.assert_array_equal(held.asnumpy(), value)


def test_states_of_an_optimizer_that_could_not_be_made_go_too(weight):
    clash = Parameter(Tensor(np.ones(3, np.float32)), name="eps")
    with pytest.raises(ValueError, match="must not have the name of an attribute"):
        AdamOffload([weight, clash])
    gc.collect()
    assert not any("eps" in clone.name for clone in getattr(clash.param_info, "cloned_obj", []))


class Step(nn.Cell):
    """A user's training cell. Unlike that of `nn.TrainOneStepCell`, its `construct` names its inputs."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, gradient):
        return self.optimizer((gradient,))


def test_the_graph_of_a_training_cell_goes_too(weight):
    optimizer = AdamOffload([weight])
    state, step, gradient = weakref.ref(optimizer.moment1[0]), Step(optimizer), Tensor(np.ones(3, np.float32))
    step(gradient)
    del optimizer, step
    Step(AdamOffload([weight]))(gradient)
    assert state() is None


def test_the_cure_for_cells_that_mindspore_keeps():
    """It never frees a cell whose `construct` has `*inputs`, such as this one. The documentation has the cure."""
    net = nn.Dense(3, 1)

    def trained():
        training = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), AdamOffload(net.trainable_params()))
        training(Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((2, 1), np.float32)))
        return training

    training = trained()
    state = weakref.ref(training.optimizer.moment1[0])
    del training.optimizer
    ms.ms_memory_recycle()
    trained()
    assert state() is None
