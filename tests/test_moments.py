# SPDX-License-Identifier: Apache-2.0

"""bfloat16 moments: half the memory, checkpoints both ways, and no bias. test_same_bits.py compares their bits."""

import gc
import mmap

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Parameter, Tensor, nn
from oracle import Oracle
from rounding import rounded
from steps import as_float32

from mindspore_offload import AdamOffload, states

DTYPES = [ms.float32, ms.float16, ms.bfloat16]
SIZES = [1031, 7, 4096]


def new_optimizer(moment_dtype=ms.bfloat16, dtypes=DTYPES, **arguments):
    random = np.random.default_rng(3)
    values = [Tensor(random.standard_normal(size).astype(np.float32)) for size in SIZES]
    parameters = [Parameter(value.astype(dtype), name=f"w{i}") for i, (value, dtype) in enumerate(zip(values, dtypes))]
    return AdamOffload(parameters, 0.01, moment_dtype=moment_dtype, **arguments)


def with_moments(optimizer):
    """Returns the optimizer with random moments, and these as float32."""
    random, values = np.random.default_rng(4), {}
    for moment in (*optimizer.moment1, *optimizer.moment2):
        moment.set_data(Tensor(random.standard_normal(moment.shape).astype(np.float32)).astype(moment.dtype))
        values[moment.name] = as_float32(moment)
    return optimizer, values


def of_float32_parameters(optimizer_class):
    return optimizer_class([Parameter(Tensor(np.ones(size, np.float32)), name=f"w{i}") for i, size in enumerate(SIZES)])


def test_names_and_memory():
    """Four bytes a parameter, in place of eight."""
    optimizer = new_optimizer()
    moments = [*optimizer.moment1, *optimizer.moment2]
    assert {str(moment.dtype) for moment in moments} == {"BFloat16"}
    assert sum(moment.nbytes for moment in moments) == 4 * sum(SIZES)
    assert [moment.name for moment in optimizer.moment1] == ["moment1.w0", "moment1.w1", "moment1.w2"]


@pytest.mark.parametrize(
    ("moment_dtype", "expected_bytes"), [(ms.uint8, 2.03), (ms.bfloat16, 4), (ms.float32, 8)], ids=str
)
def test_resident_memory(moment_dtype, expected_bytes):
    """The first step touches the states. Everything else that it allocates is small."""

    def grown(*shape):
        """Returns the bytes by which the process grows in the first step, and those of the states."""
        parameter = Parameter(Tensor(np.zeros(shape, np.float32)), name="w")
        optimizer = AdamOffload([parameter], moment_dtype=moment_dtype)
        gradient = Tensor(np.ones(shape, np.float32))
        gc.collect()
        before = psutil.Process().memory_info().rss
        optimizer((gradient,))
        return psutil.Process().memory_info().rss - before, resident_bytes(optimizer)

    grown(32, 1024)  # MindSpore's own memory
    of_process, of_states = (each / 50e6 for each in grown(50_000, 1000))
    assert of_states == pytest.approx(expected_bytes, abs=0.01)
    assert of_process == pytest.approx(expected_bytes, abs=0.2)  # a few huge pages, and MindSpore's compilation


def resident_bytes(optimizer):
    """Returns the bytes of the pages of both moments that are in memory. The kernel has a word for each page."""
    pages = 0
    with open("/proc/self/pagemap", "rb") as file:
        for moment in (*optimizer.moment1, *optimizer.moment2):
            start = moment.memory.ctypes.data
            first, end = start // mmap.PAGESIZE, -(-(start + moment.nbytes) // mmap.PAGESIZE)
            file.seek(8 * first)
            entries = np.frombuffer(file.read(8 * (end - first)), np.uint64)
            pages += np.count_nonzero(entries >> np.uint64(63))
    return pages * mmap.PAGESIZE


PREFIXES = {"before": ("net.", ""), "after": ("", "net."), "twice": ("net.", "trainer.net.")}


def test_a_prefix_of_all_names_changes_no_bits():
    """Cells that hold the net put prefixes before its names, before or after the optimizer is made."""
    gradients = tuple(Tensor(np.random.default_rng(5).standard_normal(size).astype(np.float32)) for size in SIZES)
    ends = {}
    for case, (before, after) in {"none": ("", ""), **PREFIXES}.items():
        parameters = list(new_optimizer().parameters)
        for each in parameters:
            each.name = before + each.name
        optimizer = AdamOffload(parameters, 0.01, moment_dtype=ms.bfloat16)
        for each in parameters:
            each.name = after + each.name.rpartition(".")[2]
        for _ in range(3):
            optimizer(gradients)
        ends[case] = [as_float32(each).tobytes() for each in (*optimizer.moment1, *optimizer.moment2, *parameters)]
    assert ends == dict.fromkeys(ends, ends["none"])


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


@pytest.mark.newest("in 2.7, Tensor.data_ptr is 0 before a tensor is used")
def test_float32_checkpoints_load_strictly_rounded_to_nearest(tmp_path):
    """Also those of the replaced optimizers. The moments keep their memory, in which the next step finds the values."""
    after = new_optimizer(dtypes=[ms.float32] * 3)
    memory = [moment.data_ptr() for moment in after.moment1]
    for source in (AdamOffload, nn.Adam, nn.AdamOffload):
        before, values = with_moments(of_float32_parameters(source))
        ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
        saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
        assert ms.load_param_into_net(after, saved, strict_load=True) == ([], [])
        for moment in (*after.moment1, *after.moment2):
            np.testing.assert_array_equal(as_float32(moment), rounded(values[moment.name], ms.bfloat16))
        assert [moment.data_ptr() for moment in after.moment1] == memory
    after(tuple(Tensor(np.zeros(size, np.float32)) for size in SIZES))
    for moment in after.moment1:
        exact = np.float32(0.9) * rounded(values[moment.name], ms.bfloat16)
        np.testing.assert_allclose(as_float32(moment), exact, rtol=2.0**-7)


def test_a_bfloat16_checkpoint_loads_strictly_into_float32_moments(tmp_path):
    before, values = with_moments(new_optimizer())
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
    after = new_optimizer(moment_dtype=ms.float32)
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    assert ms.load_param_into_net(after, saved, strict_load=True) == ([], [])
    assert {str(moment.dtype) for moment in after.moment1} == {"Float32"}
    for moment in (*after.moment1, *after.moment2):
        np.testing.assert_array_equal(moment.asnumpy(), values[moment.name])


def test_nn_adam_takes_the_moments_as_the_documentation_says(tmp_path):
    """Strictly it refuses bfloat16. Otherwise MindSpore converts it, without a change of the values."""
    before, values = with_moments(new_optimizer(dtypes=[ms.float32] * 3))
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    after = of_float32_parameters(nn.Adam)
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


def test_stock_has_no_bfloat16_moments():
    with pytest.raises(ValueError, match=r"must be 'auto' or 'native' if 'moment_dtype' is bfloat16, but got 'stock'"):
        new_optimizer(host_kernel="stock")


@pytest.mark.parametrize("wrong", [ms.float16, "bfloat16", None], ids=str)
def test_another_moment_dtype_is_refused(wrong):
    with pytest.raises(
        ValueError,
        match=r"'moment_dtype' must be one of \[mindspore.float32, mindspore.bfloat16, mindspore.uint8\], but got",
    ):
        new_optimizer(moment_dtype=wrong)


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
