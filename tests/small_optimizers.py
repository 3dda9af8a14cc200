# SPDX-License-Identifier: Apache-2.0

"""The replaced optimizer and both host operations, on three small float32 parameters."""

import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload

MAKERS = {
    "native": lambda *args, **kwargs: AdamOffload(*args, host_kernel="native", **kwargs),
    "stock": lambda *args, **kwargs: AdamOffload(*args, host_kernel="stock", **kwargs),
    "replaced": nn.AdamOffload,
}

NAMES = ("dense.weight", "norm.gamma", "dense.bias")
SHAPES = ((5, 3), (3,), (7,))


def new_parameters(dtype=None):
    random = np.random.default_rng(2)
    weights = [Tensor(random.standard_normal(shape).astype(np.float32)) for shape in SHAPES]
    return [
        Parameter(weight if dtype is None else weight.astype(dtype), name=name) for name, weight in zip(NAMES, weights)
    ]


def gradients_of_steps(parameters, steps=4, scale=1.0):
    random = np.random.default_rng(3)
    return [[(scale * random.standard_normal(p.shape)).astype(np.float32) for p in parameters] for _ in range(steps)]
