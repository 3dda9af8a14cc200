# SPDX-License-Identifier: Apache-2.0

"""Checkpoints are exchanged with the optimizers that are replaced, and training resumes with the same bits."""

import random
import subprocess
import sys
import time

import mindspore as ms
import numpy as np
import pytest
import resume
from mindspore import Parameter, Tensor, nn
from nets import assert_same, parameters_of
from oracle import Oracle
from rounding import rounded
from small_optimizers import MAKERS, new_parameters
from steps import as_float32, take_steps, values

from mindspore_offload import AdamOffload

ALL = {**MAKERS, "nn.Adam": nn.Adam}


def start_program(*arguments):
    return subprocess.Popen([sys.executable, resume.__file__, *map(str, arguments)])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """For each optimizer the values after three steps, the file with them, and the values after three more."""
    folder, result = tmp_path_factory.mktemp("saved"), {}
    for name, make in ALL.items():
        optimizer = make(new_parameters())
        at_three = resume.train(optimizer, 3)
        ms.save_checkpoint(optimizer, str(folder / f"{name}.ckpt"))
        result[name] = at_three, folder / f"{name}.ckpt", resume.train(optimizer, 3)
    return result


@pytest.mark.parametrize("target", ALL)
def test_checkpoints_of_one_load_into_another(target, saved):
    """One optimizer loads those of all. But nn.AdamOffload refuses the shape in which nn.Adam saves beta powers.

    nn.Adam does too, once it has loaded another shape, so its own checkpoint is the first.
    """
    after = ALL[target](new_parameters())
    for source, (at_three, path, at_six) in reversed(saved.items()):
        if (source, target) == ("nn.Adam", "replaced"):
            continue
        assert resume.load(after, path) == []
        loaded = parameters_of(after)
        assert loaded.keys() == at_three.keys()
        for name, value in loaded.items():
            np.testing.assert_array_equal(value.reshape(at_three[name].shape), at_three[name], err_msg=name)
        for name, value in resume.train(after, 3).items():
            np.testing.assert_allclose(value.reshape(at_six[name].shape), at_six[name], rtol=1e-5, atol=1e-6)


def test_resume_in_a_new_process(host_kernel, tmp_path):
    """Every form of the learning rate is saved, loaded and trained on, and compared with an uninterrupted run."""
    unbroken = {}
    for name, make in resume.RESUMED.items():
        optimizer = make(host_kernel)
        resume.train(optimizer, 2)
        ms.save_checkpoint(optimizer, str(tmp_path / f"{name}.ckpt"))
        unbroken[name] = resume.train(optimizer, resume.THEN)
    assert start_program("continue", tmp_path, host_kernel).wait() == 0
    for name, expected in unbroken.items():
        assert_same(dict(np.load(tmp_path / f"{name}.npz")), expected)


def test_a_killed_process_resumes_from_its_last_whole_checkpoint(host_kernel, tmp_path):
    """The process is killed at a random moment, between two steps or while saving."""
    program = start_program("run", tmp_path, host_kernel)
    while len(list(tmp_path.glob("*.ckpt"))) < 3 and program.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.05))
    program.kill()
    assert program.wait() < 0

    last = sorted(tmp_path.glob("step*.ckpt"))[-1]
    steps = int(last.stem.removeprefix("step"))
    resumed, unbroken = (resume.without_groups(host_kernel, "float") for _ in range(2))
    resume.load(resumed, last)
    assert_same(resume.train(resumed, 3), resume.train(unbroken, steps + 3))


@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_a_file_cut_inside_a_parameter_is_refused_and_one_cut_between_two_lacks_the_rest(crc, tmp_path):
    """As the documentation says. A checksum does not help: it is cut off with the rest."""
    optimizer = AdamOffload(new_parameters())
    parameters = list(optimizer.get_parameters())
    names = [parameter.name for parameter in parameters]
    ends = []
    for count in range(1, len(parameters) + 1):
        ms.save_checkpoint([{"name": p.name, "data": p} for p in parameters[:count]], str(tmp_path / "start.ckpt"))
        ends.append((tmp_path / "start.ckpt").stat().st_size)
    ms.save_checkpoint(optimizer, str(tmp_path / "saved.ckpt"), crc_check=crc)
    content = (tmp_path / "saved.ckpt").read_bytes()
    assert ends[-1] == len(content) - 17 * crc
    cut = tmp_path / "cut.ckpt"
    for count, end in enumerate(ends, 1):
        cut.write_bytes(content[:end])
        loaded = ms.load_checkpoint(str(cut), crc_check=crc)
        assert list(loaded) == names[:count]
        assert ms.load_param_into_net(optimizer, loaded, strict_load=True)[0] == names[count:]
        for place in (end - 1, end - 7):
            cut.write_bytes(content[:place])
            with pytest.raises(ValueError, match="checkpoint"):
                ms.load_checkpoint(str(cut), crc_check=crc)


def test_the_checksum_finds_a_flipped_bit_anywhere(tmp_path):
    ms.save_checkpoint(AdamOffload(new_parameters()), str(tmp_path / "saved.ckpt"), crc_check=True)
    content = (tmp_path / "saved.ckpt").read_bytes()
    flips = np.random.default_rng(1).integers(8, size=len(content))
    for place, bit in enumerate(flips):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        with pytest.raises(ValueError, match="checkpoint"):
            ms.load_checkpoint(str(tmp_path / "damaged.ckpt"), crc_check=True)


def test_resuming_with_other_betas(host_kernel, tmp_path):
    """The new betas count from there on, and the powers are the products of the betas of all steps."""
    gradients = [np.linspace(-1, 1, 7, dtype=np.float32) * (1 + step) for step in range(6)]
    start = np.linspace(1, 2, 7, dtype=np.float32)
    oracle = Oracle([start], learning_rate=0.01)
    before = AdamOffload([Parameter(Tensor(start), name="w")], 0.01, host_kernel=host_kernel)
    for gradient in gradients[:3]:
        before((Tensor(gradient),))
        oracle.step([gradient])
    ms.save_checkpoint(before, str(tmp_path / "saved.ckpt"))

    betas = {"beta1": 0.8, "beta2": 0.99}
    after = AdamOffload([Parameter(Tensor(start), name="w")], 0.01, **betas, host_kernel=host_kernel)
    resume.load(after, tmp_path / "saved.ckpt")
    other = Oracle([start], **betas)
    oracle.beta1, oracle.rest1, oracle.beta2, oracle.rest2 = other.beta1, other.rest1, other.beta2, other.rest2
    for gradient in gradients[3:]:
        after((Tensor(gradient),))
        oracle.step([gradient])
    np.testing.assert_allclose(after.parameters[0].asnumpy(), oracle.weights[0], rtol=1e-6)
    np.testing.assert_allclose(after.beta1_power.asnumpy(), [0.9**3 * 0.8**3], rtol=1e-6)
    np.testing.assert_allclose(after.beta2_power.asnumpy(), [0.999**3 * 0.99**3], rtol=1e-6)


def test_saving_removes_the_old_file_first(tmp_path, monkeypatch):
    """As the documentation warns: a save that fails leaves no file of that name."""
    path = tmp_path / "saved.ckpt"
    optimizer = AdamOffload(new_parameters())
    ms.save_checkpoint(optimizer, str(path))

    def fail(*arguments):
        raise OSError("no space left")

    for name in ("_write_parameter_data", "_write_parameter_bytes_data"):
        monkeypatch.setattr(f"mindspore.train.serialization.{name}", fail)
    with pytest.raises(OSError, match="no space left"):
        ms.save_checkpoint(optimizer, str(path))
    assert not path.exists()


def test_an_optimizer_of_another_shape_is_refused(tmp_path):
    ms.save_checkpoint(AdamOffload(new_parameters()), str(tmp_path / "saved.ckpt"))
    other = [Parameter(Tensor(np.ones(4, np.float32)), name=parameter.name) for parameter in new_parameters()]
    optimizer = AdamOffload(other)
    with pytest.raises(RuntimeError, match=r"should have the same shape"):
        resume.load(optimizer, tmp_path / "saved.ckpt")


@pytest.mark.parametrize("new", [0.5, [0.5, 0.25]], ids=["number", "list"])
def test_a_new_learning_rate_is_kept_if_the_checkpoint_has_none(new):
    before, after = AdamOffload(new_parameters(), 0.125), AdamOffload(new_parameters(), new)
    saved = {parameter.name: parameter for parameter in before.get_parameters()}
    if new == 0.5:
        ms.load_param_into_net(after, saved, strict_load=True)
        assert parameters_of(after)["learning_rate"] == 0.125
    else:
        with pytest.raises(RuntimeError, match=r"learning_rate .* should have the same shape"):
            ms.load_param_into_net(after, saved, strict_load=True)
    del saved["learning_rate"]
    after = AdamOffload(new_parameters(), new)
    assert ms.load_param_into_net(after, saved, strict_load=True) == (["learning_rate"], [])
    np.testing.assert_array_equal(parameters_of(after)["learning_rate"], new)


def test_a_beta_power_of_two_elements_is_refused():
    optimizer = AdamOffload(new_parameters())
    wrong = {"beta1_power": Parameter(Tensor([0.5, 0.5], ms.float32), name="beta1_power")}
    with pytest.raises(RuntimeError, match=r"beta1_power .* should have the same shape"):
        ms.load_param_into_net(optimizer, wrong, strict_load=True)


def test_model_checkpoints(host_kernel, tmp_path):
    """A net resumed through `Model` and `ModelCheckpoint` ends with the bits of an uninterrupted one."""
    random = np.random.default_rng(1)
    columns = random.standard_normal((8, 4)).astype(np.float32), random.standard_normal((8, 2)).astype(np.float32)

    def new_data():
        return ms.dataset.NumpySlicesDataset(columns, shuffle=False).batch(4)

    def new_model():
        ms.set_seed(3)
        net = nn.SequentialCell(nn.Dense(4, 2), nn.BatchNorm1d(2))
        return net, ms.Model(net, nn.MSELoss(), AdamOffload(net.trainable_params(), 0.1, host_kernel=host_kernel))

    unbroken_net, unbroken = new_model()
    unbroken.train(4, new_data(), dataset_sink_mode=False)

    _, broken = new_model()
    keep = ms.train.ModelCheckpoint("model", str(tmp_path), ms.train.CheckpointConfig(save_checkpoint_steps=2))
    broken.train(2, new_data(), callbacks=keep, dataset_sink_mode=False)

    net, resumed = new_model()
    saved = ms.load_checkpoint(str(tmp_path / "model-2_2.ckpt"))
    missing, _ = ms.load_param_into_net(resumed.train_network, saved, strict_load=True)
    assert not missing
    resumed.train(2, new_data(), dataset_sink_mode=False)
    assert_same(parameters_of(net), parameters_of(unbroken_net))


NAMES_16_BIT = {"dense.weight": ms.float16, "norm.gamma": ms.bfloat16, "dense.bias": ms.bfloat16}


def new_16_bit_parameters():
    return [Parameter(p.value().astype(NAMES_16_BIT[p.name]), name=p.name) for p in new_parameters()]


def test_masters_are_saved_and_resumed(host_kernel, tmp_path):
    """The steps are so small that the extra bits of the masters matter."""
    optimizer = AdamOffload(new_16_bit_parameters(), 1e-5, host_kernel=host_kernel)
    take_steps(optimizer, 3)
    ms.save_checkpoint(optimizer, str(tmp_path / "saved.ckpt"))
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    masters = {f"master.{name}" for name in NAMES_16_BIT}
    assert {name for name in saved if name.startswith("master.")} == masters

    resumed, without = (AdamOffload(new_16_bit_parameters(), 1e-5, host_kernel=host_kernel) for _ in range(2))
    assert resume.load(resumed, tmp_path / "saved.ckpt") == []
    kept = {name: value for name, value in saved.items() if name not in masters}
    missing, _ = ms.load_param_into_net(without, kept, strict_load=True)
    assert set(missing) == masters

    for each in (optimizer, resumed, without):
        take_steps(each, 3, seed=5)
    unbroken, again = values(optimizer), values(without)
    assert_same(values(resumed), unbroken)
    for name, dtype in NAMES_16_BIT.items():
        # The master restarts from its parameter, which is off by half a unit of 8 or 11 bits of mantissa.
        half_a_unit = 2.0**-9 if dtype == ms.bfloat16 else 2.0**-12
        master = f"master.{name}"
        np.testing.assert_allclose(again[master], unbroken[master], rtol=1.01 * half_a_unit)
        assert (again[master] != unbroken[master]).any()


def test_a_float32_checkpoint_loads_into_a_16_bit_net(tmp_path):
    """The parameters are rounded to nearest even. Loaded into the masters too, the weights lose no bit."""
    single = AdamOffload(new_parameters(), 1e-5)
    expected = resume.train(single, 3)
    ms.save_checkpoint(single, str(tmp_path / "saved.ckpt"))

    optimizer = AdamOffload(new_16_bit_parameters(), 1e-5)
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))
    for parameter in optimizer.parameters:
        name = f"master.{parameter.name}"
        saved[name] = Parameter(saved[parameter.name].value(), name=name)
    missing, unused = ms.load_param_into_net(optimizer, saved)
    assert (missing, unused) == ([], [])
    for parameter, master in zip(optimizer.parameters, optimizer.master):
        np.testing.assert_array_equal(as_float32(parameter), rounded(expected[parameter.name], parameter.dtype))
        np.testing.assert_array_equal(master.asnumpy(), expected[parameter.name])
    # The next step gives the same bits as for float32 weights.
    single(tuple(Tensor(np.full(p.shape, 0.5, np.float32)) for p in single.parameters))
    optimizer(tuple(Tensor(np.full(p.shape, 0.5), p.dtype) for p in optimizer.parameters))
    for parameter, master, exact in zip(optimizer.parameters, optimizer.master, single.parameters):
        np.testing.assert_array_equal(master.asnumpy(), exact.asnumpy())
        np.testing.assert_array_equal(as_float32(parameter), rounded(exact.asnumpy(), parameter.dtype))
