# SPDX-License-Identifier: Apache-2.0

"""Parameters kept on the device: which stay, where their states are, and resuming with another share of them.

test_update.py and test_fuzz_optimizers.py have their updates.
"""

import mindspore as ms
import numpy as np
import pytest
import resume
from mindspore import Parameter, Tensor, nn
from steps import DTYPES, as_float32

from mindspore_offload import AdamOffload, AdamWOffload, placement, placement_report


def weights_of(sizes):
    return [Parameter(Tensor(np.ones(size, np.float32)), name=f"w{i}") for i, size in enumerate(sizes)]


def on_device(optimizer):
    """The indices of the parameters whose moments are float32 in an optimizer with bfloat16 moments."""
    return [i for i, moment in enumerate(optimizer.moment1) if moment.dtype == ms.float32]


@pytest.mark.parametrize(
    ("sizes", "settings", "expected", "reached"),
    [
        ((9, 11, 10), {"min_offload_size": 10}, [0], 21 / 30),
        ((9, 11, 10), {}, [], 1),
        ((9, 11, 10), {"offload_ratio": 0.0}, [0, 1, 2], 0),
        ((9, 11, 10), {"offload_ratio": 0.4}, [0, 2], 11 / 30),
        ((9, 11, 10), {"offload_ratio": 0.8, "min_offload_size": 11}, [0, 2], 11 / 30),
        ((8, 8, 8, 8), {"offload_ratio": 0.5}, [0, 1], 0.5),
        ((8, 8), {"offload_ratio": 0.75}, [], 1),
        ((5, 95), {"offload_ratio": 0.6}, [0], 0.95),
        ((5, 95), {"offload_ratio": 0.4}, [0, 1], 0),
    ],
    ids=["bound", "all-offloaded", "none-offloaded", "smallest", "both", "first-of-equals", "tie", "up", "down"],
)
def test_the_smallest_parameters_stay_on_the_device(sizes, settings, expected, reached):
    """As many as bring the share closest to the ratio. No name depends on it."""
    optimizer = AdamOffload(weights_of(sizes), moment_dtype=ms.bfloat16, **settings)
    assert on_device(optimizer) == expected
    assert optimizer.offload_ratio == reached
    names = [parameter.name for parameter in optimizer.get_parameters()]
    assert names == [parameter.name for parameter in AdamOffload(weights_of(sizes)).get_parameters()]


def test_no_other_number_of_parameters_is_closer():
    """The ratio that was reached chooses the same parameters again."""
    random = np.random.default_rng(5)
    for _ in range(300):
        sizes = random.integers(1, 10 ** random.integers(1, 6), size=random.integers(1, 30)).tolist()
        ratio = float(random.uniform())
        kept = placement.kept_on_device(sizes, 0, ratio)
        reached = placement.offloaded_share(sizes, kept)
        largest = max([size for size, stays in zip(sizes, kept) if stays], default=0)
        assert all(size >= largest for size, stays in zip(sizes, kept) if not stays)
        shares = [sum(sorted(sizes)[count:]) / sum(sizes) for count in range(len(sizes) + 1)]
        assert abs(reached - ratio) <= min(abs(share - ratio) for share in shares) + 1e-12
        assert placement.kept_on_device(sizes, 0, reached) == kept


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "'offload_ratio' must be a float from 0.0 to 1.0, but got True of type bool"),
        ("0.5", TypeError, "'offload_ratio' must be a float from 0.0 to 1.0, but got '0.5' of type str"),
        (None, TypeError, "'offload_ratio' must be a float from 0.0 to 1.0, but got None of type NoneType"),
        (-0.1, ValueError, "'offload_ratio' must be a float from 0.0 to 1.0, but got -0.1"),
        (1.01, ValueError, "'offload_ratio' must be a float from 0.0 to 1.0, but got 1.01"),
        (float("nan"), ValueError, "'offload_ratio' must be a float from 0.0 to 1.0, but got nan"),
    ],
)
def test_other_ratios_are_refused(value, error, message):
    with pytest.raises(error, match=f"For 'AdamWOffload', the argument {message}"):
        AdamWOffload(weights_of([3]), offload_ratio=value)


def test_the_ratio_is_that_of_the_constructor():
    optimizer = AdamOffload(weights_of([3]))
    with pytest.raises(AttributeError, match="the attribute 'offload_ratio' must not be assigned to"):
        optimizer.offload_ratio = 0.5


class Net(nn.Cell):
    def __init__(self, dtypes=("float32", "float32", "float32")):
        super().__init__()
        random = np.random.default_rng(3)
        shapes = {"large": (60, 50), "middle": (50, 3), "small": (3,)}
        for (name, shape), dtype in zip(shapes.items(), dtypes):
            value = Tensor(np.asarray(0.1 * random.standard_normal(shape), np.float32)).astype(DTYPES[dtype])
            setattr(self, name, Parameter(value, name=name))

    def construct(self, inputs):
        hidden = ms.ops.matmul(inputs, self.large.astype(ms.float32))
        found = ms.ops.matmul(hidden, self.middle.astype(ms.float32)) + self.small.astype(ms.float32)
        return ((found - 1) ** 2).mean()


INPUTS = Tensor(np.random.default_rng(4).standard_normal((8, 60)).astype(np.float32))


def new_step(dtypes, optimizer_class=AdamOffload, **settings):
    net = Net(dtypes)
    return nn.TrainOneStepCell(net, optimizer_class(net.trainable_params(), **settings))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("settings", [{"offload_ratio": 0.9}, {"min_offload_size": 1000}], ids="-".join)
def test_the_report_shows_what_stays_on_the_device(settings, dtype, host_kernel):
    """`middle` and `small` stay."""
    step = new_step([dtype] * 3, host_kernel=host_kernel, writeback="assign", **settings)
    found = placement_report(step, INPUTS)
    kinds = ("moment1", "moment2") if dtype == "float32" else ("moment1", "moment2", "master")
    assert set(found.state_bytes["device"]) == {
        "learning_rate",
        *(f"{kind}.{name}" for kind in kinds for name in ("middle", "small")),
    }
    assert found.offload_ratio == step.optimizer.offload_ratio == 3000 / 3153
    assert f"offload_ratio, as reached                 {3000 / 3153:.4f}\n" in str(found)
    launches = [operation.name for operation in found.operations if operation.place == "device"]
    assert launches.count("Adam") == 2
    assert f"launches on the device {len(launches):25}{len(launches) / 3:14.2f} a tensor" in str(found)
    # The gradient and the result of the large parameter, its 16 bits too, and a few scalars.
    assert found.to_host_bytes == 4 * 3000 + 4  # and the learning rate
    assert found.to_device_bytes < (4 if dtype == "float32" else 2) * 3000 + 100


@pytest.mark.parametrize(
    ("dtypes", "settings"),
    [
        (["float32"] * 3, {"max_grad_norm": 1.0}),
        pytest.param(["float16", "bfloat16", "float32"], {"moment_dtype": ms.bfloat16}, marks=pytest.mark.full),
    ],
    ids=["float32", "mixed-bfloat16-moments"],
)
def test_a_training_goes_on_with_another_ratio(dtypes, settings, tmp_path):
    """Saved with 1.0, resumed with 0.04, saved, resumed with 1.0: the losses are those of one training.

    bfloat16 moments are rounded on the host and not on the device, so the losses agree only within that.
    """
    unbroken = new_step(dtypes, AdamWOffload, learning_rate=0.01, **settings)
    expected = [float(unbroken(INPUTS)) for _ in range(12)]
    assert expected[-1] < 0.5 * expected[0]
    losses, path = [], str(tmp_path / "saved.ckpt")
    for ratio in (1.0, 0.04, 1.0):
        step = new_step(dtypes, AdamWOffload, learning_rate=0.01, offload_ratio=ratio, **settings)
        if losses:
            assert resume.load(step, path) == []
        losses += [float(step(INPUTS)) for _ in range(4)]
        ms.save_checkpoint(step, path)
    assert step.optimizer.global_step.asnumpy() == [12]
    np.testing.assert_allclose(losses, expected, rtol=0.02 if settings.get("moment_dtype") else 1e-5)


def test_loading_converts_the_moments(tmp_path):
    """From bfloat16 on the host to float32 on the device exactly, and back to nearest. Loading is strict."""
    saved = AdamOffload(weights_of([40]), moment_dtype=ms.bfloat16)
    saved.moment1[0].set_data(Tensor(np.linspace(-1, 1, 40, dtype=np.float32)))
    ms.save_checkpoint(saved, str(tmp_path / "saved.ckpt"))
    other = AdamOffload(weights_of([40]), moment_dtype=ms.bfloat16, offload_ratio=0.0)
    assert resume.load(other, tmp_path / "saved.ckpt") == []
    assert (saved.moment1[0].dtype, other.moment1[0].dtype) == (ms.bfloat16, ms.float32)
    np.testing.assert_array_equal(other.moment1[0].asnumpy(), as_float32(saved.moment1[0]))
    ms.save_checkpoint(other, str(tmp_path / "other.ckpt"))
    back = AdamOffload(weights_of([40]), moment_dtype=ms.bfloat16)
    assert resume.load(back, tmp_path / "other.ckpt") == []
    np.testing.assert_array_equal(as_float32(back.moment1[0]), as_float32(saved.moment1[0]))


@pytest.fixture(scope="module")
def beside_nn_adam():
    """Returns the weights and the moments after ten steps of an optimizer with two groups."""

    def trained(optimizer_class, **settings):
        random, weights = np.random.default_rng(6), weights_of((300, 400, 100, 200))
        groups = [{"params": weights[:2], "lr": 0.01, "weight_decay": 0.1}, {"params": weights[2:], "lr": 0.003}]
        optimizer = optimizer_class(groups, **settings)
        for _ in range(10):
            optimizer(tuple(Tensor(random.standard_normal(each.shape), ms.float32) for each in weights))
        kinds = (weights, optimizer.moment1, optimizer.moment2)
        return optimizer, [[each.asnumpy() for each in kind] for kind in kinds]

    _, expected = trained(nn.Adam)
    return lambda **settings: (*trained(AdamOffload, **settings), expected)


@pytest.mark.parametrize(("ratio", "reached"), [(0.0, 0.0), (0.3, 0.4), (0.7, 0.7), (1.0, 1.0)])
def test_agrees_with_nn_adam(ratio, reached, beside_nn_adam):
    optimizer, found, expected = beside_nn_adam(offload_ratio=ratio)
    assert optimizer.offload_ratio == reached
    for ours, theirs in zip(found, expected):
        for one, other in zip(ours, theirs):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
