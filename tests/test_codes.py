# SPDX-License-Identifier: Apache-2.0

"""Moments of 8 bits: a quarter of the memory, checkpoints from and to all formats, shards, and the right updates."""

import itertools

import merging
import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from moment_values import values_of
from nets import parameters_of
from test_moments import update_ratios

from mindspore_offload import AdamOffload, AdamWOffload, codes, states
from mindspore_offload.distributed.ranks import World
from mindspore_offload.formats import MOMENT_NAMES
from mindspore_offload.states import buckets

MOMENTS = ["moment1", "moment2"]
DTYPES = [ms.float32, ms.bfloat16, ms.uint8]
SHAPES = {"large": (67, 77), "embedding": (130, 3, 43), "small": (63, 65), "flat": (5000,)}


def new_optimizer(moment_dtype=ms.uint8, dtype=ms.float32, cls=AdamOffload, **arguments):
    random = np.random.default_rng(3)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    parameters = [Parameter(Tensor(value).astype(dtype), name=name) for name, value in values.items()]
    return cls(parameters, 0.01, moment_dtype=moment_dtype, **arguments)


def gradients(optimizer, seed):
    random = np.random.default_rng(seed)
    return tuple(
        Tensor((random.standard_normal(each.shape) * 10 ** random.uniform(-3, 0, each.shape)).astype(np.float32))
        for each in optimizer.parameters
    )


def test_names_dtypes_and_bytes():
    """2.04 bytes a parameter. Small parameters, and those of one dimension, keep float32 moments."""
    optimizer = new_optimizer()
    assert [(each.name, str(each.dtype), tuple(each.shape)) for each in optimizer.moment2] == [
        ("moment2.large", "UInt8", (21, 260)),
        ("moment2.embedding", "UInt8", (66, 260)),
        ("moment2.small", "Float32", (63, 65)),
        ("moment2.flat", "Float32", (5000,)),
    ]
    large = AdamOffload([Parameter(Tensor(np.zeros((2048, 2048), np.float32)), name="w")], moment_dtype=ms.uint8)
    assert sum(each.nbytes for each in (*large.moment1, *large.moment2)) / 2048**2 == pytest.approx(2.03, abs=0.01)


@pytest.mark.parametrize("moment", MOMENTS)
def test_values_become_the_nearest_codes_once(moment):
    """The code's value is the nearest of all 256 in a block with this scale. Encoded again, it stays."""
    random = np.random.default_rng(7)
    values = (random.standard_normal(1000) * 10.0 ** random.uniform(-6, 0, 1000)).astype(np.float32)
    values[300:310] = 0
    values = values if moment == "moment1" else values**2
    blocks = codes.encode(values, moment)
    decoded = codes.decode(blocks, moment)
    for number, block in enumerate(np.split(values, [256, 512, 768])):
        every = np.zeros((1, 260), np.uint8)
        every[0, :256] = np.arange(256)
        every[0, 256:] = blocks[number, 256:]
        possible = codes.decode(every, moment).astype(np.float64)
        distance = np.abs(block[:, None].astype(np.float64) - possible).min(axis=1)
        chosen = np.abs(decoded[256 * number :][: len(block)].astype(np.float64) - block)
        np.testing.assert_allclose(chosen, distance, rtol=1e-4, atol=1e-12 * np.abs(block).max())
    assert (decoded[300:310] == 0).all() == (moment == "moment1")  # a second moment is never zero
    np.testing.assert_array_equal(codes.encode(decoded, moment), blocks)


@pytest.fixture(scope="module")
def trained():
    """An optimizer after 20 steps, as its checkpoint and as float32 moments."""
    optimizer = new_optimizer()
    for step in range(20):
        optimizer(gradients(optimizer, step))
    moments = [*optimizer.moment1, *optimizer.moment2]
    shapes = 2 * [(each.size,) for each in optimizer.parameters]
    return optimizer, {each.name: values_of(each, shape) for each, shape in zip(moments, shapes)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_codes_of_a_training_stay_if_they_are_decoded_and_encoded(moment, trained):
    optimizer, values = trained
    for state in getattr(optimizer, moment)[:2]:
        decoded = codes.decode(state.asnumpy(), moment)
        np.testing.assert_array_equal(decoded[: len(values[state.name])], values[state.name])
        np.testing.assert_array_equal(codes.decode(codes.encode(decoded, moment), moment), decoded)


@pytest.mark.parametrize("suffix", merging.FORMATS)
def test_all_formats_load_each_other_strictly(suffix, trained, tmp_path):
    """From the codes of a training by way of each format to each other one. Codes are exact in float32."""
    start, expected = trained
    unit = {ms.float32: 0.0, ms.bfloat16: 2.0**-8, ms.uint8: 2.0**-4}

    def passed_on(before, after):
        path = tmp_path / (f"saved.{suffix}" if suffix == "ckpt" else "saved")
        ms.save_checkpoint(before, str(path), format=suffix)
        saved = ms.load_checkpoint(str(tmp_path / f"saved.{suffix}"), format=suffix)
        assert ms.load_param_into_net(after, saved, strict_load=True) == ([], [])
        return after

    for first, second in itertools.product(DTYPES, repeat=2):
        after = passed_on(passed_on(start, new_optimizer(first)), new_optimizer(second))
        error = 0.0 if ms.bfloat16 not in (first, second) else unit[first] + unit[second] + 2.0**-8
        for state in (*after.moment1, *after.moment2):
            values = expected[state.name]
            floor = np.abs(values).max() * 2.0**-15 * error
            np.testing.assert_allclose(values_of(state, values.shape), values, rtol=error, atol=floor)


def test_nn_adam_refuses_codes_and_loads_what_float32_moments_save(trained, tmp_path):
    """As the documentation says: load them into an optimizer with float32 moments, and save that."""
    before, expected = trained
    ms.save_checkpoint(before, str(tmp_path / "codes.ckpt"))
    saved = ms.load_checkpoint(str(tmp_path / "codes.ckpt"))
    adam = nn.Adam(new_optimizer().parameters)
    with pytest.raises(RuntimeError, match=r"moment1.large .* should have the same shape"):
        ms.load_param_into_net(adam, saved)
    wide = new_optimizer(ms.float32)
    ms.load_param_into_net(wide, saved, strict_load=True)
    ms.save_checkpoint(wide, str(tmp_path / "float32.ckpt"))
    assert ms.load_param_into_net(adam, ms.load_checkpoint(str(tmp_path / "float32.ckpt")), strict_load=True)[0] == []
    for state in adam.moment1:
        np.testing.assert_array_equal(state.asnumpy().reshape(-1), expected[state.name])


def test_a_wrong_shape_of_codes_is_refused(trained):
    state = new_optimizer().moment1[1]
    for wrong in (np.zeros((3, 260), np.uint8), np.zeros((66, 259), np.uint8), np.zeros((5, 5), np.float32)):
        with pytest.raises(ValueError, match=r"'moment1.embedding', the data must have its shape .*, but got"):
            state.set_data(Tensor(wrong))


@pytest.mark.parametrize("moment", MOMENT_NAMES)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_piece_takes_its_blocks_of_a_whole_state(rank, moment):
    """From codes, and from float32. A piece of another training is refused. The padding of float32 pieces is zero."""
    values = np.abs(np.random.default_rng(3).standard_normal((130, 161))).astype(np.float32)
    parameter = Parameter(Tensor(values), name="w")

    def allocate(dtype, rank, ranks):
        return getattr(states.allocate(parameter, dtype, World(rank, ranks), 0, 0, False, False), moment)

    own, whole = allocate(ms.uint8, rank, 3), allocate(ms.uint8, 0, 1)
    whole.set_data(Tensor(values))
    blocks = np.zeros((3 * 28, 260), np.uint8)  # 7,168 elements a piece
    blocks[: len(whole.memory)] = whole.memory
    for source in (Tensor(whole.memory), Tensor(values)):
        own.memory[:] = 99
        own.set_data(source)
        np.testing.assert_array_equal(own.memory, blocks[28 * rank : 28 * (rank + 1)])
    exact = allocate(ms.float32, rank, 3)
    for source in (Tensor(whole.memory), Tensor(own.memory)):
        exact.memory[:] = 99
        exact.set_data(source)
        padded = np.zeros(3 * 7168, np.float32)
        padded[: values.size] = codes.decode(whole.memory, moment)[: values.size]
        np.testing.assert_array_equal(exact.memory, padded[7168 * rank : 7168 * (rank + 1)])
    with pytest.raises(ValueError, match="merged before another number of ranks"):
        own.set_data(Tensor(np.zeros((42, 260), np.uint8)))


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16], ids=str)
def test_same_bits_for_writebacks_buckets_and_after_a_resume(dtype, tmp_path, monkeypatch):
    """The resumed training is in PyNative mode."""
    arguments = {"dtype": dtype, "cls": AdamWOffload, "max_grad_norm": 1.0, "use_nesterov": True}

    def bits(optimizer):
        return {name: value.tobytes() for name, value in parameters_of(optimizer).items()}

    def train(optimizer, steps):
        for step in steps:
            optimizer(tuple(each.astype(dtype) for each in gradients(optimizer, step)))
        return bits(optimizer)

    expected = train(new_optimizer(**arguments), range(6))
    assert train(new_optimizer(writeback="assign", **arguments), range(6)) == expected
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1)
    half = new_optimizer(**arguments)
    train(half, range(3))
    ms.save_checkpoint(half, str(tmp_path / "half.ckpt"))
    resumed = new_optimizer(**arguments)
    ms.load_param_into_net(resumed, ms.load_checkpoint(str(tmp_path / "half.ckpt")), strict_load=True)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert train(resumed, range(3, 6)) == expected


def test_updates_have_the_size_of_those_with_exact_moments():
    """After gradients fell to 3 %, the median of 4,096 elements. Rounded to nearest, it is below a half."""
    weight = Parameter(Tensor(np.zeros((64, 64), np.float32)), name="weight")
    optimizer = AdamOffload([weight], 1e-3, moment_dtype=ms.uint8)
    ratios = update_ratios(
        lambda gradient: optimizer((Tensor(gradient.reshape(64, 64)),)),
        lambda: weight.asnumpy().astype(np.float64).reshape(-1),
    )
    low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert 0.98 <= middle <= 1.04, (low, middle, high)
    assert low >= 0.84, (low, middle, high)
    assert high <= 1.22, (low, middle, high)


def test_small_parameters_on_the_device_keep_float32():
    optimizer = new_optimizer(min_offload_size=6000)
    assert [str(each.dtype) for each in optimizer.moment1] == ["Float32", "UInt8", "Float32", "Float32"]


def test_merge_joins_the_pieces_of_codes(tmp_path):
    whole = merging.trained(ms.uint8)
    assert whole["moment1.net.a"].dtype == np.uint8
    for suffix, ranks in itertools.product(merging.FORMATS, (2, 3)):
        folder = tmp_path / f"{suffix}{ranks}"
        folder.mkdir()
        paths = merging.save_ranks(folder, merging.cut(whole, ranks), suffix)
        merging.assert_same(merging.merged(paths, folder / f"whole.{suffix}"), whole)
