# SPDX-License-Identifier: Apache-2.0

"""An optimizer that is called from Python compiles its step once, whatever happens to other optimizers."""

import gc
import weakref

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindspore_offload import AdamOffload
from mindspore_offload.mindspore_private import _cell_graph_executor

GRADIENTS = tuple(Tensor(np.ones(shape, np.float32)) for shape in ((5, 3), (3,)))


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def compilations(request, monkeypatch):
    """A list that gets one True for each call that compiles a graph, in each mode."""
    ms.set_context(mode=request.param)
    found, executor = [], type(_cell_graph_executor)
    original = executor.compile

    def compile_and_note(self, *args, **kwargs):
        phase, is_new = original(self, *args, **kwargs)
        found.extend([True] * is_new)
        return phase, is_new

    monkeypatch.setattr(executor, "compile", compile_and_note)
    return found


def new_optimizer(**arguments):
    """Returns an optimizer that is called with the same inputs as all others of this module."""
    weights = [Parameter(Tensor(np.ones(each.shape, np.float32)), name=f"w{each.ndim}") for each in GRADIENTS]
    return AdamOffload(weights, 0.1, **arguments)


def compiled_in(compilations, *optimizers, steps=2):
    """Returns how many graphs are compiled in some steps of optimizers that take turns."""
    compilations.clear()
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer(GRADIENTS)
    return len(compilations)


def test_each_optimizer_compiles_once(compilations):
    scale = Parameter(Tensor([2.0], ms.float32), name="scale")
    first, kept = new_optimizer(), new_optimizer(loss_scale=scale)
    assert compiled_in(compilations, first, kept) == 2
    first.itself = first  # lives on in a cycle, until Python looks for garbage
    del first
    last = new_optimizer()
    assert compiled_in(compilations, last) == 1
    gc.collect()
    assert compiled_in(compilations, kept, last) == 0

    ms.load_param_into_net(kept, {parameter.name: parameter for parameter in last.get_parameters()}, strict_load=True)
    kept.parameters[0].set_data(Tensor(np.zeros((5, 3), np.float32)))
    kept.learning_rate = 0.01
    scale.set_data(Tensor([4.0], ms.float32))
    kept.set_train()
    assert compiled_in(compilations, kept) == 0
    assert (kept.parameters[0].asnumpy() < 0).all()


def test_an_optimizer_goes_with_its_last_reference():
    """Its states are as large as the model, so they can't wait until Python looks for garbage."""
    optimizer = new_optimizer()
    optimizer(GRADIENTS)
    gc.collect()
    gc.disable()
    try:
        found = weakref.ref(optimizer)
        del optimizer
        assert found() is None
    finally:
        gc.enable()
