# SPDX-License-Identifier: Apache-2.0

"""bfloat16 moments: half the memory, the same bits everywhere, checkpoints both ways, and no bias."""

import gc

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Parameter, Tensor, nn
from nets import assert_same
from oracle import Oracle
from test_update import rounded

from mindspore_offload import AdamOffload, AdamWOffload, native_library, states
from mindspore_offload.states import buckets

DTYPES = [ms.float32, ms.float16, ms.bfloat16]
SIZES = [1031, 7, 4096]


def new_optimizer(make=AdamOffload, moment_dtype=ms.bfloat16, dtypes=DTYPES, **arguments):
    random = np.random.default_rng(3)
    values = [Tensor(random.standard_normal(size).astype(np.float32)) for size in SIZES]
    parameters = [Parameter(value.astype(dtype), name=f"w{i}") for i, (value, dtype) in enumerate(zip(values, dtypes))]
    return make(parameters, 0.01, moment_dtype=moment_dtype, **arguments)


def train(optimizer, steps):
    """Returns all values, as float32, after steps whose gradients depend on the number of the step."""
    for _ in range(steps):
        random = np.random.default_rng(int(optimizer.global_step.asnumpy()[0]))
        optimizer(tuple(Tensor(random.standard_normal(p.shape).astype(np.float32)) for p in optimizer.parameters))
    return {p.name: p.astype(ms.float32).asnumpy() for p in optimizer.get_parameters()}


@pytest.fixture(scope="module")
def expected():
    return train(new_optimizer(), 6)


def test_names_and_memory():
    """Four bytes a parameter, in place of eight."""
    optimizer = new_optimizer()
    moments = [*optimizer.moment1, *optimizer.moment2]
    assert {str(moment.dtype) for moment in moments} == {"BFloat16"}
    assert sum(moment.nbytes for moment in moments) == 4 * sum(SIZES)
    assert [moment.name for moment in optimizer.moment1] == ["moment1.w0", "moment1.w1", "moment1.w2"]


@pytest.mark.parametrize(("moment_dtype", "expected_bytes"), [(ms.bfloat16, 4), (ms.float32, 8)], ids=str)
def test_resident_memory(moment_dtype, expected_bytes):
    """The first step touches the states. Everything else that it allocates is small."""
    size = 2**25

    def grown(size):
        """Returns the bytes by which the process grows in the first step."""
        optimizer = AdamOffload([Parameter(Tensor(np.zeros(size, np.float32)), name="w")], moment_dtype=moment_dtype)
        gradient = Tensor(np.ones(size, np.float32))
        gc.collect()
        before = psutil.Process().memory_info().rss
        optimizer((gradient,))
        return psutil.Process().memory_info().rss - before

    grown(2**15)  # MindSpore's own memory
    assert grown(size) / size == pytest.approx(expected_bytes, abs=0.2)  # a few huge pages, and MindSpore's compilation


def test_assign_gives_the_same_bits(expected):
    assert_same(train(new_optimizer(writeback="assign"), 6), expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads, expected):
    library = native_library.load()
    before = library.MindsporeOffloadThreads()
    library.MindsporeOffloadSetThreads(threads)
    try:
        assert_same(train(new_optimizer(), 6), expected)
    finally:
        library.MindsporeOffloadSetThreads(before)


def test_any_bound_of_buckets_gives_the_same_bits(expected, monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)
    assert_same(train(new_optimizer(), 6), expected)


def test_a_resume_gives_the_same_bits(expected, tmp_path):
    first = new_optimizer()
    train(first, 3)
    ms.save_checkpoint(first, str(tmp_path / "saved.ckpt"))
    resumed = new_optimizer()
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    assert ms.load_param_into_net(resumed, saved, strict_load=True) == ([], [])
    assert_same(train(resumed, 3), expected)


PREFIXES = {"no-prefix": ("", ""), "before": ("net.", ""), "after": ("", "net."), "twice": ("net.", "trainer.net.")}


@pytest.mark.parametrize("prefixes", PREFIXES.values(), ids=PREFIXES)
def test_a_prefix_of_all_names_changes_no_bits(prefixes, expected):
    """Cells that hold the net put prefixes before its names, before or after the optimizer is made."""
    parameters = list(new_optimizer().parameters)
    for each in parameters:
        each.name = prefixes[0] + each.name
    optimizer = AdamOffload(parameters, 0.01, moment_dtype=ms.bfloat16)
    for each in parameters:
        each.name = prefixes[1] + each.name.rpartition(".")[2]
    values = train(optimizer, 6)
    for i, each in enumerate(optimizer.parameters):
        np.testing.assert_array_equal(values[each.name], expected[f"w{i}"])


KEYS = {
    "single": (["weight"], ["a.b.weight"], True),
    "no-prefix": (["a.w", "b.w"], ["net.a.w", "net.b.w"], True),
    "part-of-a-name": (["conv1.w", "conv2.w"], ["net.conv1.w", "net.conv2.w"], True),
    "name-is-prefix": (["a", "a.b"], ["net.a", "net.a.b"], True),
    "other-order": (["a.w", "b.w"], ["net.b.w", "net.a.w"], False),
    "other-name": (["a.w", "b.w"], ["net.a.w", "net.c.w"], False),
}


@pytest.mark.parametrize(("some", "others", "same"), KEYS.values(), ids=KEYS)
def test_keys_depend_on_names_without_their_common_prefix(some, others, same):
    keys = states.keys_of(some)
    assert len(set(keys)) == len(some)
    assert (states.keys_of(others) == keys) is same
    assert sorted(states.keys_of(some[::-1])) == sorted(keys)


SOURCES = {"AdamOffload": AdamOffload, "nn.Adam": nn.Adam, "nn.AdamOffload": nn.AdamOffload}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_float32_checkpoint_loads_strictly_rounded_to_nearest(source, tmp_path):
    all_float32 = [ms.float32] * 3
    before = source([Parameter(Tensor(np.ones(size, np.float32)), name=f"w{i}") for i, size in enumerate(SIZES)], 0.01)
    train(before, 2)
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
    after = new_optimizer(dtypes=all_float32)
    memory = [moment.data_ptr() for moment in after.moment1]
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    assert ms.load_param_into_net(after, saved, strict_load=True) == ([], [])
    for loaded, moment in zip((*after.moment1, *after.moment2), (*before.moment1, *before.moment2)):
        np.testing.assert_array_equal(loaded.astype(ms.float32).asnumpy(), rounded(moment.asnumpy(), ms.bfloat16))
    assert [moment.data_ptr() for moment in after.moment1] == memory
    train(after, 1)


def test_a_bfloat16_checkpoint_loads_strictly_into_float32_moments(tmp_path):
    before = new_optimizer()
    values = train(before, 2)
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
    after = new_optimizer(moment_dtype=ms.float32)
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    assert ms.load_param_into_net(after, saved, strict_load=True) == ([], [])
    assert {str(moment.dtype) for moment in after.moment1} == {"Float32"}
    for moment in after.moment2:
        np.testing.assert_array_equal(moment.asnumpy(), values[moment.name])


def test_nn_adam_takes_the_moments_as_the_documentation_says(tmp_path):
    """Strictly it refuses bfloat16. Otherwise MindSpore converts it, without a change of the values."""
    before = new_optimizer(dtypes=[ms.float32] * 3)
    values = train(before, 2)
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    after = nn.Adam([Parameter(Tensor(np.ones(size, np.float32)), name=f"w{i}") for i, size in enumerate(SIZES)], 0.01)
    with pytest.raises(RuntimeError, match=r"moment1.w0 .* should have the same type"):
        ms.load_param_into_net(after, saved, strict_load=True)
    assert ms.load_param_into_net(after, saved) == ([], [])
    for moment in (*after.moment1, *after.moment2):
        np.testing.assert_array_equal(moment.asnumpy(), values[moment.name])


def test_another_dtype_is_refused():
    optimizer = new_optimizer()
    wrong = {"moment1.w1": Parameter(Tensor(np.ones(7, np.float16)), name="moment1.w1")}
    with pytest.raises(RuntimeError, match=r"moment1.w1 .* should have the same type"):
        ms.load_param_into_net(optimizer, wrong, strict_load=True)


def test_small_parameters_on_the_device_keep_float32():
    optimizer = new_optimizer(min_offload_size=100)
    assert [str(moment.dtype) for moment in optimizer.moment1] == ["BFloat16", "Float32", "BFloat16"]
    train(optimizer, 1)


def test_stock_has_no_bfloat16_moments():
    with pytest.raises(ValueError, match=r"must be 'auto' or 'native' if 'moment_dtype' is bfloat16, but got 'stock'"):
        new_optimizer(host_kernel="stock")


@pytest.mark.parametrize("wrong", [ms.float16, "bfloat16", None], ids=str)
def test_another_moment_dtype_is_refused(wrong):
    with pytest.raises(ValueError, match=r"'moment_dtype' must be mindspore.float32 or mindspore.bfloat16, but got"):
        new_optimizer(moment_dtype=wrong)


@pytest.mark.parametrize("make", [AdamOffload, AdamWOffload], ids=lambda make: make.__name__)
def test_a_skipped_step_rounds_nothing(make):
    """Not even with another number of the step, which is what the random bits depend on."""
    optimizer = new_optimizer(make, skip_nonfinite=True, max_grad_norm=1.0)
    before = train(optimizer, 2)
    optimizer(tuple(Tensor(np.full(p.shape, np.inf, np.float32)) for p in optimizer.parameters))
    after = {p.name: p.astype(ms.float32).asnumpy() for p in optimizer.get_parameters()}
    assert after.pop("skipped_steps") == before.pop("skipped_steps") + 1
    assert not np.isfinite(after.pop("global_norm"))
    before.pop("global_norm")
    assert_same(after, before)


class RoundsMoments(Oracle):
    """Adam whose moments are rounded to the nearest bfloat16 after each step."""

    def step(self, gradients, weights=None):
        super().step(gradients, weights)
        self.moment1, self.moment2 = (
            [rounded(moment.astype(np.float32), ms.bfloat16).astype(np.float64) for moment in moments]
            for moments in (self.moment1, self.moment2)
        )


def update_ratios(step, weights_of):
    """Returns each element's movement over the last steps, against float64's, after its gradients fell to 3 %."""
    random = np.random.default_rng(5)
    scales = 10.0 ** random.uniform(-3, 0, 4096)
    oracle = Oracle([np.zeros(4096)], 1e-3)
    for t in range(4000):
        if t == 3000:
            start, expected_start = weights_of(), oracle.weights[0].copy()
        # Most of a gradient is steady, so that float64's movement is not a difference of noise.
        gradient = (scales * (1.0 if t < 1000 else 0.03) * (1 + 0.3 * random.standard_normal(4096))).astype(np.float32)
        oracle.step([gradient])
        step(gradient)
    return (weights_of() - start) / (oracle.weights[0] - expected_start)


def assert_unbiased(ratios):
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert 0.99 <= middle <= 1.01, (low, middle, high)
    assert low >= 0.90, (low, middle, high)
    assert high <= 1.12, (low, middle, high)


def test_updates_have_the_size_of_those_with_exact_moments():
    weight = Parameter(Tensor(np.zeros(4096, np.float32)), name="weight")
    optimizer = AdamOffload([weight], 1e-3, moment_dtype=ms.bfloat16)
    assert_unbiased(
        update_ratios(lambda gradient: optimizer((Tensor(gradient),)), lambda: weight.asnumpy().astype(np.float64))
    )


def test_rounding_to_nearest_would_be_noticed():
    nearest = RoundsMoments([np.zeros(4096)], 1e-3)
    ratios = update_ratios(lambda gradient: nearest.step([gradient]), lambda: nearest.weights[0].copy())
    with pytest.raises(AssertionError):
        assert_unbiased(ratios)
    assert np.median(ratios) < 0.5
