# SPDX-License-Identifier: Apache-2.0

"""Whole optimizers with random arguments, element by element against float64.

The tests build a few, the same ones in each run. `make fuzz` builds hundreds, new ones in each run but in continuous
integration; the id of a failed test is the seed that builds its optimizer again.
"""

import os

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from rounding import rounded
from schedules import LEARNING_RATES, WEIGHT_DECAYS
from steps import DTYPES, OPTIMIZERS, ORACLES, as_float32, check_beside, step_beside, wide_weights
from test_skipping import bits_of

STEPS = 4
SEEDS = range(42, 60)


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        is_fuzz = metafunc.config.getoption("--hypothesis-profile") == "fuzz"
        seeds = np.random.default_rng(0 if os.environ.get("CI") else None)
        metafunc.parametrize("seed", seeds.integers(10**9, size=300) if is_fuzz else SEEDS)


class Drawn:
    """Random arguments, parameters and groups. What is True in `features` names what the optimizer has."""

    def __init__(self, seed):
        self.random = random = np.random.default_rng(seed)
        self.optimizer = str(random.choice(list(OPTIMIZERS)))
        self.settings = {
            "beta1": float(random.uniform(0.8, 0.99)),
            "beta2": float(random.uniform(0.9, 0.9999)),
            "eps": float(10 ** random.uniform(-10, -3)),
            "use_nesterov": self.flip(),
        }
        if self.flip():
            self.settings["max_grad_norm"] = float(10 ** random.uniform(-1, 2))
        self.is_dynamic = self.flip()
        self.loss_scales = self.one_or_many(lambda: float(random.choice([1.0, 1000.0, 2.0**15])), self.is_dynamic)
        self.where = {
            "host_kernel": str(random.choice(["native", "native", "stock"])),
            "writeback": str(random.choice(["in_place", "assign"])),
            "skip_nonfinite": self.flip(),
            "min_offload_size": int(random.choice([0, 0, 50])),
            "offload_ratio": float(random.choice([1.0, 0.7, 0.3, 0.0])),
        }
        moment_dtype = [ms.float32, ms.bfloat16, ms.uint8][random.integers(3)]
        shapes = [tuple(random.integers(1, 20, size=random.integers(4))) for _ in range(random.integers(1, 6))]
        if self.where["host_kernel"] == "native":
            self.where["moment_dtype"] = moment_dtype
            if moment_dtype == ms.uint8:  # large enough for codes
                shapes = [(70, 61), *shapes, (3, 37, 41)]
        self.weights = [np.asarray(random.standard_normal(shape), np.float32) for shape in shapes]
        self.dtypes = [str(random.choice(list(DTYPES))) for _ in shapes]
        self.common_rate = self.draw_rate()
        self.draw_groups()
        self.size = 10.0 ** random.uniform(-6, 2)
        # The step before which a parameter is written, and the one before which the training is saved and resumed.
        self.written_at, self.resumed_at = random.integers(2 * STEPS, size=2)

    def flip(self):
        return bool(self.random.integers(2))

    def one_or_many(self, draw, is_many):
        """Returns a value for each step."""
        return [draw() for _ in range(STEPS)] if is_many else [draw()] * STEPS

    def draw_rate(self):
        """Returns a function that makes a rate as users write it, and the rate as a function of the step."""
        kind = self.random.integers(3)
        if kind == 2:
            return LEARNING_RATES[str(self.random.choice(["own-schedule", "cosine-decay", "exponential-decay"]))]
        rates = self.one_or_many(lambda: float(10 ** self.random.uniform(-5, -1.5)), kind == 1)
        return lambda: rates if kind else rates[0], rates.__getitem__

    def draw_decay(self):
        if self.random.integers(3) == 0:
            return WEIGHT_DECAYS[str(self.random.choice(["cell", "cell-from-zero"]))]
        decay = float(self.random.choice([0.0, 0.01, 0.3]))
        return lambda: decay, lambda step: decay

    def draw_groups(self):
        """Draws the bounds of the groups; and for each a rate or None, and a decay."""
        count = len(self.weights)
        bounds = sorted({0, count, *self.random.integers(0, count + 1, size=2).tolist()})
        self.groups = [
            (start, stop, self.draw_rate() if self.random.integers(3) else None, self.draw_decay())
            for start, stop in zip(bounds, bounds[1:])
        ]

    def new_optimizer(self):
        parameters = [
            Parameter(Tensor(w).astype(DTYPES[d]), f"p{i}") for i, (w, d) in enumerate(zip(self.weights, self.dtypes))
        ]
        groups = []
        for start, stop, rate, decay in self.groups:
            group = {"params": parameters[start:stop], "weight_decay": decay[0]()}
            groups.append(group if rate is None else {**group, "lr": rate[0]()})
        loss_scale = self.loss_scales[0]
        if self.is_dynamic:
            loss_scale = Parameter(Tensor(loss_scale, ms.float32), name="scale")
        rate = self.common_rate[0]()
        arguments = {**self.settings, **self.where}
        return OPTIMIZERS[self.optimizer](groups, rate, loss_scale=loss_scale, **arguments), loss_scale

    def new_oracle(self):
        weights = [as_float32(Tensor(w).astype(DTYPES[d])) for w, d in zip(self.weights, self.dtypes)]
        oracle = ORACLES[OPTIMIZERS[self.optimizer]](weights, **self.settings)
        # Arguments are no round numbers here. Clip, decay and scale round a gradient seven times by half a unit, its
        # square doubles that, and each step of a moment adds two more.
        oracle.moment_units = 12
        return oracle

    def rates_and_decays(self, step):
        """Returns the rate and the decay of each parameter."""
        rows = [
            (rate or self.common_rate, decay) for start, stop, rate, decay in self.groups for _ in range(start, stop)
        ]
        return [rate(step) for (_, rate), _ in rows], [decay(step) for _, (_, decay) in rows]

    def gradients(self, step):
        scale = self.loss_scales[step]
        is_narrow = self.size < 1 and scale == 1
        return [
            Tensor(np.asarray(scale * self.size * self.random.standard_normal(w.shape), np.float32)).astype(
                DTYPES[str(self.random.choice(list(DTYPES)))] if is_narrow else ms.float32
            )
            for w in self.weights
        ]

    @property
    def features(self):
        written = {
            name: value for name, value in {**self.settings, **self.where}.items() if not name.startswith("beta")
        }
        schedules = {
            type(make()).__name__ for *_, rate, decay in self.groups for make, _ in (rate or self.common_rate, decay)
        }
        return {
            self.optimizer,
            *(f"{name}={value}" for name, value in written.items() if name not in ("eps", "max_grad_norm")),
            *(name for name in ("max_grad_norm",) if name in written),
            *self.dtypes,
            *schedules,
            *(("dynamic loss scale",) if self.is_dynamic else ()),
            *(("written",) if self.written_at < STEPS else ()),
            *(("resumed",) if 0 < self.resumed_at < STEPS else ()),
        }


def test_agrees_with_float64(seed, tmp_path):
    drawn = Drawn(seed)
    optimizer, loss_scale = drawn.new_optimizer()
    oracle = drawn.new_oracle()
    for step in range(STEPS):
        if step == drawn.resumed_at > 0:
            ms.save_checkpoint(optimizer, str(tmp_path / "saved.ckpt"))
            optimizer, loss_scale = drawn.new_optimizer()
            saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
            assert ms.load_param_into_net(optimizer, saved, strict_load=True) == ([], [])
        if step == drawn.written_at:
            parameter = optimizer.parameters[0]
            value = Tensor(np.asarray(drawn.random.standard_normal(parameter.shape), np.float32)).astype(
                parameter.dtype
            )
            # Where that is what the parameter has already, its master keeps its last bits.
            master, written = wide_weights(optimizer)[0].asnumpy(), as_float32(value)
            is_same = rounded(master, parameter.dtype) == written
            parameter.set_data(value)
            oracle.weights[0] = np.where(is_same, master, written).astype(np.float64)
        if drawn.is_dynamic:
            loss_scale.set_data(Tensor(drawn.loss_scales[step], ms.float32))
        oracle.change(*drawn.rates_and_decays(step), drawn.loss_scales[step])
        gradients = drawn.gradients(step)
        if drawn.where["skip_nonfinite"]:
            before = bits_of(optimizer)
            nan = Tensor(np.full(gradients[-1].shape, np.nan, np.float32)).astype(gradients[-1].dtype)
            optimizer((*gradients[:-1], nan))
            assert bits_of(optimizer) == before
        step_beside(oracle, optimizer, gradients)
        check_beside(oracle, optimizer)


def test_the_seeds_of_the_tests_draw_every_feature():
    """And each together with moments of 8 bits, unless they exclude it."""

    def drawn_by(seeds, *needed):
        return set().union(*(drawn for drawn in (Drawn(seed).features for seed in seeds) if drawn.issuperset(needed)))

    many = range(10_000, 10_400)
    assert drawn_by(SEEDS) == drawn_by(many)
    assert drawn_by(SEEDS, "moment_dtype=UInt8") == drawn_by(many, "moment_dtype=UInt8")
