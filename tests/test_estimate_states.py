# SPDX-License-Identifier: Apache-2.0

"""``estimate`` with bfloat16 moments, and with states that several devices share."""

import json

import mindspore as ms
import numpy as np
import pytest
from estimates import Squares, printed_rows, states_of
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from mindspore_offload import AdamOffload, estimate, placement_report
from mindspore_offload.commands import main
from mindspore_offload.planning.footprint import Size

LARGE = 2**20  # elements: a multiple of every number of pieces below


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bfloat16_moments_are_those_of_an_optimizer_of_a_hundredth(dtype):
    parameter = Parameter(initializer("zeros", (70_000_000,), getattr(ms, dtype)), name="weight")
    ours, *others = estimate(7e9, dtype, moment_dtype="bfloat16")
    optimizer = AdamOffload([parameter], moment_dtype=ms.bfloat16)
    assert ours.host_states == pytest.approx(100 * states_of(optimizer), rel=1e-4)
    assert others == list(estimate(7e9, dtype)[1:])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transfers_with_bfloat16_moments_are_those_of_the_compiled_graph(dtype):
    net = Squares(getattr(ms, dtype))
    optimizer = AdamOffload(net.trainable_params(), writeback="assign", moment_dtype=ms.bfloat16)
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((1000, 30)), getattr(ms, dtype)))
    ours = estimate(net.trainable_params(), moment_dtype="bfloat16")[0]
    assert ours.to_host == pytest.approx(found.to_host_bytes, rel=0.01)
    assert ours.to_device == pytest.approx(found.to_device_bytes, rel=0.01)
    assert ours.host_states == pytest.approx(sum(found.state_bytes["host"].values()), rel=0.01)


def test_small_parameters_keep_float32_moments():
    params = [Size("large", 1000, "float32"), Size("small", 10, "bfloat16")]
    ours = estimate(params, min_offload_size=11, moment_dtype="bfloat16")[0]
    assert (ours.host_states, ours.device_states) == (4 * 1000, 12 * 10)


def test_bfloat16_moments_move_fewer_bytes_in_host_memory():
    """4 bytes of moments instead of 8 are read and written; the link carries the same."""
    settings = {"link_gb_s": 4.0, "host_gb_s": 16.0}
    ours, exact = (estimate(1e9, moment_dtype=dtype, **settings)[0] for dtype in ("bfloat16", "float32"))
    assert (ours.to_host, ours.to_device) == (exact.to_host, exact.to_device)
    assert ours.seconds == pytest.approx(8 / 4 + (8 + 16) / 16)
    assert estimate(1e9, host_gb_s=20.0, writeback="in_place", moment_dtype="bfloat16")[0].seconds == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "own", "states"), [("float32", 4, 8), ("bfloat16", 2, 12)])
def test_devices_share_the_states(dtype, own, states):
    whole = estimate([Size("w", LARGE, dtype)], devices=4)[0]
    ours, *others = estimate([Size("w", LARGE, dtype)], devices=4, shard_states=True)
    piece = LARGE // 4
    assert ours.host_states == states * piece
    assert (4 * ours.to_host, 4 * ours.to_device) == (whole.to_host, whole.to_device)
    assert 4 * ours.host_traffic == whole.host_traffic
    assert ours.interconnect == 3 * own * piece
    assert (ours.device_weights, ours.device_gradients) == (own * LARGE, own * LARGE)
    assert [other.interconnect for other in (whole, *others)] == [0] * 4
    # Each device's link carries a fourth, and host memory serves four devices.
    settings = {"link_gb_s": 4.0, "host_gb_s": 16.0, "devices": 4}
    shared = estimate([Size("w", LARGE, dtype)], shard_states=True, **settings)[0].seconds
    assert 4 * shared == pytest.approx(estimate([Size("w", LARGE, dtype)], **settings)[0].seconds)


def test_pieces_are_padded_and_small_parameters_stay_whole():
    """A piece of the first one is 1024 elements larger than a third; the second one is below the bound of 16384."""
    params = [Size("large", 3 * 8192 + 1, "float32"), Size("small", 16383, "float32")]
    ours = estimate(params, devices=3, shard_states=True)[0]
    assert ours.host_states == 8 * (8192 + 1024) + 8 * 16383
    assert ours.to_device == 4 * (8192 + 1024) + 4 * 16383
    assert ours.interconnect == 2 * 4 * (8192 + 1024)


def test_shared_states_with_the_arguments_of_the_optimizer():
    params = [Size("large", LARGE, "bfloat16"), Size("small", 10, "float32")]
    shared = {"devices": 2, "shard_states": True}
    both = estimate(params, moment_dtype="bfloat16", **shared)[0]
    assert both.host_states == 8 * LARGE // 2 + 4 * 10
    clipped = estimate(params, max_grad_norm=1.0, min_offload_size=11, **shared)[0]
    # Half a gradient waits for the norm, and the whole one of the small parameter.
    assert clipped.host_others == 2 * LARGE // 2 + 4 * 10
    assert clipped.to_host == 4 * LARGE // 2 + 4 * 10
    assert (clipped.host_states, clipped.device_states) == (12 * LARGE // 2, 8 * 10)
    on_cpu = estimate([Size("w", LARGE, "float32")], writeback="in_place", **shared)[0]
    assert (on_cpu.device, on_cpu.to_host, on_cpu.to_device) == (0, 0, 0)
    assert (on_cpu.host_states, on_cpu.host_others) == (8 * LARGE // 2, 8 * LARGE)
    assert on_cpu.interconnect == 4 * LARGE // 2


def test_a_device_has_a_slice_of_each_matrix():
    """The last of 4 slices of 1001 rows of a dense layer would be shorter; each counts as much as the first."""
    params = [Size("w", 1001, "bfloat16"), Size("b", 7, "bfloat16", 1)]
    ours, offload, adam, exact = estimate(params, model_parallel=4)
    held = 251 + 7
    assert (ours.host_states, ours.device_weights, ours.to_host, ours.to_device) == (
        12 * held,
        2 * held,
        4 * held,
        2 * held,
    )
    assert (adam.device_states, exact.device_states, offload.host) == (4 * held, 12 * held, 0)
    # If only their number is known, the device keeps what fits beside its slice of the weights and gradients.
    ours = estimate(8000, "float32", model_parallel=8, device_memory=8 * 1000 + 8 * 250)[0]
    assert (ours.offload_ratio, ours.device_states, ours.host_states) == (0.75, 8 * 250, 8 * 750)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_grad_norm": 1.0},
        {"skip_nonfinite": True},
        {"shard_states": True, "devices": 2},
        {"moment_dtype": "uint8"},
    ],
    ids="-".join,
)
def test_slices_exclude_what_needs_whole_gradients(settings):
    with pytest.raises(ValueError, match="For 'estimate', the argument 'model_parallel' must be 1 with max_grad_norm"):
        estimate(1e9, model_parallel=2, **settings)


SMALL = [Size("w", 100, "float32")]


@pytest.mark.parametrize(
    ("parameters", "settings", "message"),
    [
        (5, {"moment_dtype": "float16"}, "'moment_dtype' must be 'float32', 'bfloat16' or 'uint8', but got 'float16'"),
        (
            4095,
            {"moment_dtype": "uint8"},
            "'moment_dtype' must be .* no parameter has 4,096 elements .* but got 'uint8'",
        ),
        (
            [Size("b", 9999, "float32", 1)],
            {"moment_dtype": "uint8"},
            "'moment_dtype' must be .* two dimensions, but got 'uint8'",
        ),
        (
            5,
            {"moment_dtype": ms.bfloat16},
            "'moment_dtype' must be 'float32', 'bfloat16' or 'uint8', but got mindspore.bfloat16",
        ),
        (
            SMALL,
            {"moment_dtype": "bfloat16", "min_offload_size": 101},
            "'moment_dtype' must be 'float32' if offload_ratio or min_offload_size keeps all states on the device",
        ),
        (
            1e9,
            {"shard_states": True},
            "'devices' must be a whole number of at least 2 if shard_states is True, but got 1",
        ),
        (1e9, {"shard_states": True, "devices": 2.5}, "'devices' must be a whole number from 1 to .* but got 2.5"),
        (
            SMALL,
            {"shard_states": True, "devices": 2},
            "'shard_states' must be False if no offloaded parameter is large enough",
        ),
        (
            [Size("w", LARGE, "float32")],
            {"shard_states": True, "devices": 2, "min_offload_size": LARGE + 1},
            "'shard_states' must be False if no offloaded parameter is large enough",
        ),
    ],
    ids=[
        "float16",
        "small-codes",
        "flat-codes",
        "dtype",
        "no-moments",
        "one-device",
        "half-a-device",
        "small",
        "on-the-device",
    ],
)
def test_arguments_without_a_meaning_are_refused(parameters, settings, message):
    with pytest.raises(ValueError, match=f"For 'estimate', the argument {message}"):
        estimate(parameters, **settings)


def test_the_command_prints_what_shared_bfloat16_states_need(capsys):
    options = ["--params=7e9", "--dtype=bf16", "--devices=8", "--moment-dtype=bf16", "--shard-states"]
    printed, (row,) = printed_rows(capsys, *options)
    assert "States of AdamOffload: bfloat16 moments, shared by the devices.\n" in printed
    assert row[8:16] == ["7.00", "GB", "56.0", "GB", "3.50", "GB", "1.75", "GB"]
    assert "bfloat16: in a step, each device receives 12.3 GB of results from the others." in printed
    assert "bfloat16: AdamOffload needs 56.0 GB of host memory" in printed
    assert main(["estimate", "--host-gb-s=40", "--json", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["moment_dtype"], report["shard_states"]) == ("bfloat16", True)
    # Each of the 8 pieces is padded to a multiple of 1024 elements.
    assert report["footprints"]["bfloat16"][0]["interconnect"] == 7 * 2 * 875_000_832


def test_the_command_prints_what_a_slice_needs(capsys):
    printed, (row,) = printed_rows(capsys, "--params=7e9", "--dtype=bf16", "--model-parallel=8")
    assert "Model parallel: a device has one of 8 slices of each parameter.\n" in printed
    assert row[1:3] == ["1.75", "GB"]


def test_the_command_prints_no_interconnect_without_shared_states(capsys):
    printed, _ = printed_rows(capsys, "--params=7e9", "--devices=8")
    assert "States of AdamOffload: float32 moments.\n" in printed
    assert "receives" not in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--moment-dtype=fp16"], "argument --moment-dtype: invalid choice: 'float16'"),
        (
            ["--shard-states"],
            "'devices' must be a whole number of at least 2 if shard_states is True",
        ),
        (
            ["--params=100", "--shard-states", "--devices=2"],
            "'shard_states' must be False if no offloaded parameter is large enough",
        ),
    ],
    ids=["float16", "one-device", "small"],
)
def test_errors_of_the_command_are_one_line(options, message, capsys):
    try:
        status = main(["estimate", "--host-gb-s=40", "--params=7e9", *options])
    except SystemExit as error:  # argparse ends so
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1
