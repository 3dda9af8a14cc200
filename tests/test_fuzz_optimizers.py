# SPDX-License-Identifier: Apache-2.0

"""Whole optimizers with random arguments, element by element against float64.

The tests build a few, the same ones in each run. `make fuzz` builds hundreds, new ones in each run but in continuous
integration; the id of a failed test is the seed that builds its optimizer again.
"""

import os

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from oracle import AdamW, Oracle, assert_agrees, global_norm

from mindspore_offload import AdamOffload, AdamWOffload

STEPS = 4
DTYPES = [ms.float32, ms.float16, ms.bfloat16]


def pytest_generate_tests(metafunc):
    is_fuzz = metafunc.config.getoption("--hypothesis-profile") == "fuzz"
    seeds = np.random.default_rng(0 if os.environ.get("CI") else None)
    metafunc.parametrize("seed", seeds.integers(10**9, size=300) if is_fuzz else range(16))


class InGroup:
    """Mixed into an oracle of a single parameter: its rate changes with the step, and others share its norm."""

    # Arguments are no round numbers here. Clip, decay and scale round a gradient seven times by half a unit, its square
    # doubles that, and each step of a moment adds two more.
    moment_units = 12

    def clip_factors(self, gradients):
        return [self.factor]


class AdamInGroup(InGroup, Oracle):
    pass


class AdamWInGroup(InGroup, AdamW):
    pass


def draw_settings(random):
    """Returns the arguments that all parameters share."""
    settings = {
        "beta1": float(random.uniform(0.8, 0.99)),
        "beta2": float(random.uniform(0.9, 0.9999)),
        "eps": float(10 ** random.uniform(-10, -3)),
        "use_nesterov": bool(random.integers(2)),
        "loss_scale": float(random.choice([1.0, 1000.0, 2.0**15])),
    }
    if random.integers(2):
        settings["max_grad_norm"] = float(10 ** random.uniform(-1, 2))
    return settings


def draw_parameters(random):
    """Returns one to five parameters of any dtype and of up to three dimensions."""
    shapes = [tuple(random.integers(1, 20, size=random.integers(4))) for _ in range(random.integers(1, 6))]
    return [
        Parameter(
            Tensor(np.asarray(random.standard_normal(shape), np.float32)).astype(DTYPES[random.integers(3)]), f"p{i}"
        )
        for i, shape in enumerate(shapes)
    ]


def draw_rate(random):
    """Returns a rate for each step: one number, or a list."""
    rates = 10 ** random.uniform(-5, -1.5, size=STEPS)
    return [float(rate) for rate in rates] if random.integers(2) else float(rates[0])


def draw_groups(random, parameters, common_rate):
    """Returns groups, and the rate and the decay of each parameter, by its name."""
    bounds = sorted({0, len(parameters), *random.integers(0, len(parameters) + 1, size=2)})
    groups, of_parameter = [], {}
    for start, stop in zip(bounds, bounds[1:]):
        rate, decay = draw_rate(random), float(random.choice([0.0, 0.01, 0.3]))
        group = {"params": parameters[start:stop], "weight_decay": decay}
        if random.integers(3):
            group["lr"] = rate
        else:
            rate = common_rate
        groups.append(group)
        of_parameter.update({parameter.name: (rate, decay) for parameter in parameters[start:stop]})
    return groups, of_parameter


def float64(tensor):
    return tensor.astype(ms.float32).asnumpy().astype(np.float64)


def test_agrees_with_float64(seed):
    random = np.random.default_rng(seed)
    settings, parameters = draw_settings(random), draw_parameters(random)
    common_rate = draw_rate(random)
    groups, of_parameter = draw_groups(random, parameters, common_rate)
    optimizer_class, oracle_class = [(AdamOffload, AdamInGroup), (AdamWOffload, AdamWInGroup)][random.integers(2)]
    optimizer = optimizer_class(
        groups,
        common_rate,
        **settings,
        host_kernel=str(random.choice(["native", "stock"])),
        writeback=str(random.choice(["in_place", "assign"])),
        skip_nonfinite=bool(random.integers(2)),
        min_offload_size=int(random.choice([0, 50])),
    )
    masters = {master.name: master for master in optimizer.master}
    weights = [masters.get(f"master.{p.name}", p) for p in optimizer.parameters]
    oracles = [
        oracle_class([float64(p)], weight_decay=of_parameter[p.name][1], **settings) for p in optimizer.parameters
    ]
    size = 10.0 ** random.uniform(-6, 2)
    for step in range(STEPS):
        gradients = [
            Tensor(np.asarray(settings["loss_scale"] * size * random.standard_normal(p.shape), np.float32)).astype(
                DTYPES[random.integers(3)] if size < 1 and settings["loss_scale"] == 1 else ms.float32
            )
            for p in optimizer.parameters
        ]
        bound = settings.get("max_grad_norm", np.inf)
        norm = global_norm([float64(gradient) / settings["loss_scale"] for gradient in gradients])
        before = [float64(weight) if step else float64(p) for weight, p in zip(weights, optimizer.parameters)]
        for parameter, oracle, gradient, weight in zip(optimizer.parameters, oracles, gradients, before):
            rate = of_parameter[parameter.name][0]
            oracle.learning_rate = float(np.float32(rate[step] if isinstance(rate, list) else rate))
            oracle.factor = min(1.0, bound / norm)
            oracle.step([float64(gradient)], [weight])
        optimizer(tuple(gradients))
        for oracle, *tensors in zip(oracles, weights, optimizer.moment1, optimizer.moment2):
            assert_agrees(oracle, *([tensor.asnumpy()] for tensor in tensors))
    for parameter, master in zip((p for p in optimizer.parameters if p.dtype != ms.float32), optimizer.master):
        np.testing.assert_array_equal(float64(parameter), float64(master.astype(parameter.dtype)))
