# SPDX-License-Identifier: Apache-2.0

"""``estimate`` with states on the device: the smallest ratio that fits, what fits, and the bytes of a net with it."""

import itertools
import json

import mindspore as ms
import numpy as np
import pytest
from estimates import Squares, printed_rows
from mindspore import Parameter, Tensor, nn

from mindspore_offload import AdamOffload, estimate, placement_report
from mindspore_offload.commands import main
from mindspore_offload.planning.footprint import Size

GB = 10**9
EXAMPLE = ("--params=7B", "--dtype=bf16", "--device-memory=64GB", "--activations=12GB")


def test_a_number_of_parameters_fills_the_device():
    """Weights and gradients need 28 GB. The 24 GB that are left hold the 12 bytes of 2e9 parameters."""
    ours, offload, adam, adam_float32 = estimate(
        7 * GB, "bfloat16", device_memory=64 * GB, activations=12 * GB, host_memory=60 * GB
    )
    assert ours.offload_ratio == pytest.approx(5 / 7, abs=1e-9)
    assert (ours.device_states, ours.device, ours.host) == (24 * GB, 52 * GB, 60 * GB)
    assert ours.device_states + ours.host_states == adam_float32.device_states
    assert (ours.to_host, ours.to_device) == (5 * GB * (2 + 2), 5 * GB * 2)
    assert (ours.fits_device, ours.fits_host) == (True, True)
    assert (adam.fits_device, adam_float32.fits_device, offload.fits_device) == (False, False, False)
    assert (adam.offload_ratio, adam.fits_host) == (0, True)
    too_small = estimate(7 * GB, "bfloat16", device_memory=64 * GB, activations=12 * GB, host_memory=60 * GB - 1)[0]
    assert (too_small.offload_ratio, too_small.fits_host) == (ours.offload_ratio, False)
    no_room = estimate(7 * GB, "bfloat16", device_memory=28 * GB - 1)[0]
    assert (no_room.offload_ratio, no_room.fits_device, no_room.device_states) == (1, False, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_smaller_ratio_fits(dtype):
    """The states of one more parameter, in the order of their sizes, would not fit."""
    random = np.random.default_rng(8)
    for _ in range(30):
        params = [Size(f"w{i}", int(n), dtype) for i, n in enumerate(random.integers(1, 10**6, random.integers(1, 40)))]
        smallest_first, total = sorted(p.size for p in params), sum(p.size for p in params)
        own, state = (4, 8) if dtype == "float32" else (2, 12)
        memory = int(random.uniform(2 * own, 2 * own + state) * total)
        held = [2 * own * total + state * n for n in itertools.accumulate(smallest_first, initial=0)]
        ours = estimate(params, device_memory=memory, moment_dtype="bfloat16")[0]
        assert ours.device == max(each for each in held if each <= memory)
        assert ours.offload_ratio == pytest.approx(1 - ours.device_states / (state * total))
        # The optimizer chooses the same parameters for that ratio.
        assert estimate(params, offload_ratio=ours.offload_ratio)[0].device == ours.device


class SquaresAndMore(Squares):
    """A net of two weights of 30,000 elements and one of 1,000."""

    def __init__(self, dtype):
        super().__init__(dtype)
        self.third = Parameter(Tensor(np.ones((1000, 1)), dtype), name="third")

    def construct(self, inputs):
        return super().construct(inputs) + (self.third**2).astype(ms.float32).sum()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_net_built_with_that_ratio_has_these_bytes(dtype):
    net = SquaresAndMore(getattr(ms, dtype))
    parameters = net.trainable_params()
    own, state = (4, 8) if dtype == "float32" else (2, 12)
    room = 2 * own * 61_000 + state * 45_000  # for the states of `third` and of `first`
    ours = estimate(parameters, device_memory=room)[0]
    assert (ours.device_states, ours.host_states) == (state * 31_000, state * 30_000)
    assert ours.device <= room
    optimizer = AdamOffload(parameters, writeback="assign", offload_ratio=ours.offload_ratio)
    assert optimizer.offload_ratio == ours.offload_ratio == 30 / 61
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((1000, 30)), getattr(ms, dtype)))
    states = {place: sum(n for name, n in sizes.items() if "." in name) for place, sizes in found.state_bytes.items()}
    assert states == {"device": ours.device_states, "host": ours.host_states}
    assert found.offload_ratio == ours.offload_ratio
    assert ours.to_host == pytest.approx(found.to_host_bytes, rel=0.01)
    assert ours.to_device == pytest.approx(found.to_device_bytes, rel=0.01)


def test_the_time_falls_with_the_ratio():
    settings = {"link_gb_s": 4.0, "host_gb_s": 16.0}
    whole, half, none = (estimate(GB, offload_ratio=ratio, **settings)[0].seconds for ratio in (1.0, 0.5, 0.0))
    assert whole == pytest.approx(4)
    assert half == pytest.approx(2)
    assert none is None  # the device computes all of it


def test_devices_share_only_the_offloaded_states():
    """Each device keeps its states whole, and its piece of the others on the host."""
    million = 2**20
    params = [Size("large", 2 * million, "float32"), Size("small", million, "float32")]
    ours = estimate(params, offload_ratio=2 / 3, devices=2, shard_states=True, host_memory=16 * million)[0]
    assert (ours.device_states, ours.host_states) == (8 * million, 8 * million)
    assert ours.fits_host
    assert not estimate(params, offload_ratio=2 / 3, devices=3, host_memory=16 * million)[0].fits_host


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offload_ratio": 1.5}, "'offload_ratio' must be a number from 0 to 1, but got 1.5"),
        ({"device_memory": 0}, "'device_memory' must be a number of bytes from 1 to"),
        ({"host_memory": -1}, "'host_memory' must be a number of bytes from 1 to"),
        ({"activations": 1e9}, "'activations' must be 0 without device_memory, but got 1000000000.0; give both"),
        ({"activations": -1, "device_memory": 1e9}, "'activations' must be a number of bytes from 0 to"),
        ({"device_memory": 1e9, "writeback": "in_place"}, "'device_memory' must be None if writeback is 'in_place'"),
        (
            {"offload_ratio": 0.0, "moment_dtype": "bfloat16"},
            "'moment_dtype' must be 'float32' if offload_ratio or min_off",
        ),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"For 'estimate', the argument {message}"):
        estimate(7 * GB, **settings)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64GB", 64e9), ("1.5TB", 1.5e12), ("80GiB", 80 * 2**30), ("6.4e10", 6.4e10), ("512 mb", 512e6), ("3k", 3000)],
)
def test_bytes_have_units(text, size, capsys):
    assert main(["estimate", "--host-gb-s=40", "--params=1e3", "--json", f"--host-memory={text}"]) == 0
    assert json.loads(capsys.readouterr().out)["host_memory"] == size


def test_the_command_prints_what_fits(capsys):
    printed, (row,) = printed_rows(capsys, *EXAMPLE, "--host-memory=1.5TB")
    assert row[1:13] == ["14.0", "GB", "14.0", "GB", "24.0", "GB", "52.0", "GB", "60.0", "GB", "60.0", "GB"]
    assert "Update, computed: the transfers" in printed
    fit = "bfloat16: each device needs 52.0 GB and 12.0 GB for activations, of 64.0 GB: it fits from offload_ratio="
    assert f"{fit}0.7143 on.\n" in printed
    assert "bfloat16: AdamOffload needs 60.0 GB of host memory, of 1.50 TB: it fits.\n" in printed
    printed, _ = printed_rows(capsys, *EXAMPLE, "--offload-ratio=0.5", "--host-memory=40GB")
    assert "for activations, of 64.0 GB: it does not fit with offload_ratio=0.5.\n" in printed
    assert "42.0 GB of host memory, of 40.0 GB: it does not fit.\n" in printed
    printed, _ = printed_rows(capsys, "--params=7B", "--dtype=bf16", "--device-memory=20GB")
    assert "28.0 GB, of 20.0 GB: it does not fit even with offload_ratio=1.\n" in printed
    assert "are available on this machine now: it " in printed


def test_the_command_gives_the_ratio_as_json(capsys):
    assert main(["estimate", "--host-gb-s=40", "--json", *EXAMPLE]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["device_memory"], report["host_memory"], report["activations"]) == (64 * GB, None, 12 * GB)
    ours = report["footprints"]["bfloat16"][0]
    assert (ours["fits_device"], ours["device"]) == (True, 52 * GB)


@pytest.mark.parametrize(
    ("option", "least"),
    [("--device-memory=much", 1), ("--host-memory=-3GB", 1), ("--host-memory=5GBI", 1), ("--activations=GB", 0)],
)
def test_other_sizes_are_refused(option, least, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["estimate", "--params=7B", option])
    printed = capsys.readouterr()
    assert (exit_.value.code, printed.out) == (2, "")
    expected = f"must be a number of bytes from {least} to 1e+18, like 64GB, 1.5TB or 80GiB, but got"
    name, _, text = option.partition("=")
    assert f"argument {name}: {expected} {text!r}; " in printed.err
