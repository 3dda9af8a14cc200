# SPDX-License-Identifier: Apache-2.0

"""Parameters, gradients and steps of optimizers, and their comparison with an oracle."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from moment_values import assert_stored, values_of
from oracle import AdamW, Oracle, assert_agrees
from rounding import rounded

from mindspore_offload import AdamOffload, AdamWOffload

OPTIMIZERS = {"Adam": AdamOffload, "AdamW": AdamWOffload}
ORACLES = {AdamOffload: Oracle, AdamWOffload: AdamW}
DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
MIXED = ["float32", "float16", "bfloat16", "float32"]

# Host operation and writeback. The products with "stock" are in the full tests; the tests name those that they need.
PLACES = {
    "native-in_place": {"host_kernel": "native", "writeback": "in_place"},
    "native-assign": {"host_kernel": "native", "writeback": "assign"},
    "stock-in_place": {"host_kernel": "stock", "writeback": "in_place"},
    "stock-assign": {"host_kernel": "stock", "writeback": "assign"},
}


def new_parameters(dtypes, size=1001, seed=2):
    random = np.random.default_rng(seed)
    weights = [random.standard_normal(size).astype(np.float32) for _ in dtypes]
    return [Parameter(Tensor(w).astype(DTYPES[d]), name=f"weight{i}") for i, (w, d) in enumerate(zip(weights, dtypes))]


def gradients_for(parameters, size=1.0, seed=6):
    random = np.random.default_rng(seed)
    return tuple(Tensor(size * random.standard_normal(p.shape).astype(np.float32)).astype(p.dtype) for p in parameters)


def spoiled(gradients, value):
    """Returns the gradients with one element of the last one replaced by `value`."""
    last = as_float32(gradients[-1])
    last[3] = value
    return (*gradients[:-1], Tensor(last).astype(gradients[-1].dtype))


def take_steps(optimizer, steps, seed=4):
    for step in range(steps):
        optimizer(gradients_for(optimizer.parameters, seed=(seed, step)))


def as_float32(tensor):
    """Returns a copy of the values, as float32, because numpy has no bfloat16."""
    return tensor.astype(ms.float32).asnumpy().copy()


def values(cell):
    """Returns the values of all parameters by name, as float32."""
    return {parameter.name: as_float32(parameter) for parameter in cell.get_parameters()}


def restore(cell, saved):
    """Writes back what `values` returned."""
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(saved[parameter.name]).astype(parameter.dtype))


def wide_weights(optimizer):
    """Returns, for each parameter, what has its weight in float32: its master, or itself."""
    masters = {master.name: master for master in optimizer.master}
    return [masters.get(f"master.{parameter.name}", parameter) for parameter in optimizer.parameters]


def step_beside(oracle, optimizer, gradients):
    """Takes one step with both. The oracle decays the weights that the optimizer decays.

    These are the masters, except where a parameter is not its master rounded: it was written since the last step.
    """
    before = []
    for parameter, wide in zip(optimizer.parameters, wide_weights(optimizer)):
        found, master = as_float32(parameter), wide.asnumpy()
        before.append(np.where(rounded(master, parameter.dtype) == found, master, found))
    oracle.step([as_float32(gradient) for gradient in gradients], before)
    assert optimizer(tuple(gradients)) == (True,) * len(gradients)


def check_beside(oracle, optimizer):
    """Compares weights and moments with the oracle, and 16-bit parameters with their masters.

    A rounded moment has to be a neighbour of the exact one, and then replaces it in the oracle.
    """
    wide = wide_weights(optimizer)
    moments = {}
    for kind, exact in (("moment1", oracle.moment1), ("moment2", oracle.moment2)):
        states = getattr(optimizer, kind)
        moments[kind] = [values_of(state, expected.shape) for state, expected in zip(states, exact)]
        for i, (state, found) in enumerate(zip(states, moments[kind])):
            if state.dtype != ms.float32:
                assert_stored(found, exact[i], str(state.dtype).lower(), kind)
                exact[i] = found.astype(np.float64)
    assert_agrees(oracle, [as_float32(each) for each in wide], *moments.values())
    for parameter, weight in zip(optimizer.parameters, wide):
        np.testing.assert_array_equal(as_float32(parameter), rounded(weight.asnumpy(), parameter.dtype))
