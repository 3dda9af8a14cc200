# SPDX-License-Identifier: Apache-2.0

"""``estimate`` agrees with the memory of real optimizers and the transfers of real graphs."""

import json

import mindspore as ms
import numpy as np
import pytest
from estimates import Squares, printed_rows, states_of
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from mindspore_offload import AdamOffload, estimate, placement_report
from mindspore_offload.commands import main, units
from mindspore_offload.planning import sizes
from mindspore_offload.planning.footprint import Size


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_states_are_those_of_optimizers_of_a_hundredth(dtype):
    parameter = Parameter(initializer("zeros", (70_000_000,), getattr(ms, dtype)), name="weight")
    ours, _, adam, adam_float32 = estimate(7e9, dtype)
    assert ours.host_states == pytest.approx(100 * states_of(AdamOffload([parameter])), rel=1e-4)
    assert adam.device_states == pytest.approx(100 * states_of(nn.Adam([parameter])), rel=1e-4)
    assert ours.device_weights == adam.device_weights == adam_float32.device_weights == 100 * parameter.nbytes
    # The same states as ours, on the device: moments and masters in float32.
    assert (adam_float32.device_states, adam_float32.host) == (ours.host_states, 0)


def test_nn_adam_offload_needs_what_it_allocates_or_refuses():
    parameter = Parameter(Tensor(np.zeros(1000, np.float32)), name="weight")
    offload = estimate([parameter])[1]
    assert offload.host_states == pytest.approx(states_of(nn.AdamOffload([parameter])), rel=0.01)
    assert estimate([parameter], "float16")[1].refused
    half = Parameter(Tensor(np.zeros(1000, np.float16)), name="weight")
    with pytest.raises(TypeError, match="Float32"):
        nn.AdamOffload([half])((Tensor(np.ones(1000, np.float16)),))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transfers_are_those_of_the_compiled_graph(dtype):
    net = Squares(getattr(ms, dtype))
    optimizer = AdamOffload(net.trainable_params(), writeback="assign")
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((1000, 30)), getattr(ms, dtype)))
    ours = estimate(net.trainable_params())[0]
    assert ours.to_host == pytest.approx(found.to_host_bytes, rel=0.01)
    assert ours.to_device == pytest.approx(found.to_device_bytes, rel=0.01)
    assert ours.host_states == pytest.approx(sum(found.state_bytes["host"].values()), rel=0.01)


def test_options_that_change_bytes():
    params = [Size("large", 1000, "float32"), Size("small", 10, "bfloat16")]
    assert estimate(params)[0].host == 8 * 1000 + 12 * 10
    on_device = estimate(params, min_offload_size=11)[0]
    assert (on_device.host, on_device.device_states) == (8 * 1000, 12 * 10)
    assert (on_device.to_host, on_device.to_device) == (4 * 1000, 4 * 1000)
    gradients = 4 * 1000 + 2 * 10
    assert estimate(params, max_grad_norm=1.0)[0].host_others == gradients
    assert estimate(params, skip_nonfinite=True)[0].host_others == gradients
    for_norm = estimate(params, max_grad_norm=1.0, min_offload_size=11)[0]
    assert (for_norm.to_host, for_norm.to_device) == (4 * 1000 + 2 * 10, 4 * 1000)
    in_place = estimate(params, writeback="in_place")[0]
    assert (in_place.device, in_place.host_others, in_place.to_host) == (0, 2 * gradients, 0)
    for_norm = estimate(params, writeback="in_place", max_grad_norm=1.0)[0]
    assert (for_norm.host, for_norm.host_traffic) == (in_place.host, in_place.host_traffic + gradients)


def test_time_at_given_speeds():
    """A float32 parameter has 8 bytes on the link. Its 8 bytes of states and those 8 are read and written in memory."""
    ours, _, adam, _ = estimate(1e9, link_gb_s=4.0, host_gb_s=16.0)
    assert ours.seconds == pytest.approx(8 / 4 + (16 + 16) / 16)
    assert adam.seconds is None
    assert estimate(1e9, link_gb_s=4.0, host_gb_s=16.0, devices=8)[0].seconds == pytest.approx(2 + 8 * 2)
    assert estimate(1e9, host_gb_s=28.0, writeback="in_place")[0].seconds == pytest.approx(1)
    assert estimate(1e9, host_gb_s=28.0)[0].seconds is None


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ([0], {}, ValueError, r"'parameters' must be a whole number from 1 to 1e\+18, but got 0"),
        ([2.5], {}, ValueError, "'parameters' must be a whole number .* but got 2.5"),
        ([float("inf")], {}, ValueError, "'parameters' must be a whole number .* but got inf"),
        (
            [[Size("w", 3, "int32")]],
            {},
            TypeError,
            "'dtype' must be one of .* for the parameter 'w' of int32, but got None",
        ),
        (["7e9"], {}, TypeError, "'parameters' must be a number or parameters, but got '7e9' of type str"),
        ([["w"]], {}, TypeError, r"'parameters' must be a number or parameters, but got \['w'\] of type list"),
        ([nn.ReLU()], {}, TypeError, r"'parameters' must be .* ReLU.* for a net, give net.trainable_params\(\)"),
        ([5, "fp16"], {}, TypeError, "'dtype' must be one of .* but got 'fp16'"),
        (
            [5],
            {"max_grad_norm": -1.0},
            ValueError,
            "'max_grad_norm' must be a number from 1.17549e-38 to .*, but got -1.0",
        ),
        (
            [5],
            {"min_offload_size": -1},
            ValueError,
            "'min_offload_size' must be a whole number from 0 to 1e\\+18, but got -1",
        ),
        (
            [5],
            {"min_offload_size": 1},
            ValueError,
            "'min_offload_size' must be 0 for a number of parameters, but got 1",
        ),
        ([5], {"devices": 0}, ValueError, "'devices' must be a whole number from 1 to .*, but got 0"),
        ([5], {"devices": 10**19}, ValueError, "'devices' must be a whole number from 1 to .*, but got 1000"),
        ([5], {"devices": "2"}, ValueError, "'devices' must be a whole number from 1 to .*, but got '2'"),
        ([5], {"writeback": "auto"}, ValueError, "'writeback' must be 'assign' or 'in_place', but got 'auto'"),
        ([5], {"writeback": None}, ValueError, "'writeback' must be 'assign' or 'in_place', but got None"),
        (
            [5],
            {"model_parallel": 1.5},
            ValueError,
            r"'model_parallel' must be a whole number from 1 to .*, but got 1.5",
        ),
    ],
    ids=[
        "no-parameters",
        "fraction",
        "infinite",
        "int32",
        "text",
        "list-of-text",
        "net",
        "fp16",
        "norm",
        "size",
        "size-of-a-number",
        "no-devices",
        "many-devices",
        "text-devices",
        "writeback",
        "no-writeback",
        "half-a-slice",
    ],
)
def test_bad_arguments_are_refused(arguments, settings, error, message):
    with pytest.raises(error, match=f"For 'estimate', .*{message}"):
        estimate(*arguments, **settings)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_checkpoint_of_a_training(suffix, tmp_path, monkeypatch):
    """Only the weights count, also where a tensor is saved in several slices and the file ends with a checksum."""
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # of 1024 bytes
    net = nn.SequentialCell([nn.Conv2d(3, 50, 3, has_bias=True), nn.BatchNorm2d(50), nn.Dense(50, 70)])
    net[2].weight.set_dtype(ms.float16)
    optimizer = AdamOffload(net.trainable_params(), learning_rate=0.1)
    saved = [{"name": p.name, "data": p} for p in {**net.parameters_dict(), **optimizer.parameters_dict()}.values()]
    path = str(tmp_path / f"model.{suffix}")
    if suffix == "ckpt":
        ms.save_checkpoint(saved, path, crc_check=True)
    else:
        ms.save_checkpoint(saved, path, format=suffix)
    assert ms.load_checkpoint(path, format=suffix).keys() >= {"moment1.0.weight", "global_step"}
    expected = [(p.name, p.size, str(p.dtype).lower(), p.ndim) for p in net.trainable_params()]
    weights, others = sizes.of_checkpoint(path)
    assert (sorted(map(tuple, weights)), others) == (sorted(expected), {})


def test_the_command_prints_each_dtype(capsys):
    printed, rows = printed_rows(capsys, "--params=7e9", "--devices=8", "--min-offload-size=0")
    expected = [["56.0", "GB", "448", "GB"], ["84.0", "GB", "672", "GB"], ["84.0", "GB", "672", "GB"]]
    assert [row[8:12] for row in rows] == expected
    assert printed.count("trains float32 parameters only") == 2
    assert "bfloat16: AdamOffload needs 672 GB of host memory" in printed


@pytest.mark.parametrize(
    ("text", "count"),
    [("7B", 7 * 10**9), ("1.3b", 13 * 10**8), ("350M", 35 * 10**7), ("0.5k", 500), ("1T", 10**12), ("7_000", 7000)],
)
def test_the_number_of_parameters_may_have_a_multiple(text, count, capsys):
    printed, _ = printed_rows(capsys, f"--params={text}")
    assert printed.startswith(f"{count:,} parameters\n")


def test_any_whole_number_may_have_a_multiple(capsys):
    printed, _ = printed_rows(capsys, "--params=7e9", "--devices=1k")
    assert "Devices on this host: 1000.\n" in printed


@pytest.mark.parametrize(("short", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_dtypes_have_short_names(short, dtype, capsys):
    assert printed_rows(capsys, "--params=7B", f"--dtype={short}") == printed_rows(
        capsys, "--params=7B", f"--dtype={dtype}"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (84_000_000_000, "84.0 GB"),
        (99_960_000_000, "100 GB"),
        (112_345_000_000_000, "112 TB"),
        (10**18, "1,000,000 TB"),
    ],
)
def test_bytes_have_a_unit_of_their_size(size, text):
    assert units.byte_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.5e-9, "4.50 ns"), (0.00232, "2.32 ms"), (59.98, "60.0 s")])
def test_times_have_a_unit_of_their_size(seconds, text):
    assert units.time_text(seconds) == text


def test_tensors_of_other_dtypes_are_reported(capsys, tmp_path):
    path = tmp_path / "model.ckpt"
    parameters = [
        Parameter(Tensor(np.ones(1000, np.float32)), name="weight"),
        Parameter(Tensor(np.ones(1000, np.float64)), name="double"),
        Parameter(Tensor(np.ones(5, np.int64)), name="moment1.indices"),
    ]
    ms.save_checkpoint([{"name": p.name, "data": p} for p in parameters], str(path))
    printed, rows = printed_rows(capsys, f"--checkpoint={path}")
    assert printed.startswith(f"1,000 parameters in 1 tensors of {str(path)!r}\nNot counted: 1 tensors of float64\n")
    assert [row[1:3] for row in rows] == [["4.00", "kB"]]
    assert main(["estimate", f"--checkpoint={path}", "--host-gb-s=40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tensors_not_counted"] == {"float64": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --params --checkpoint --net is required"),
        (["--params", "many"], "must be a whole number from 1 to 1e+18, like 8, 7e9 or 7B, but got 'many'"),
        (["--params", "NaN"], "must be a whole number from 1 to 1e+18, like 8, 7e9 or 7B, but got 'NaN'"),
        (["--params", "1e999999999"], "must be a whole number from 1 to 1e+18"),
        (["--params", "0.5"], "must be a whole number from 1 to 1e+18"),
        (["--params", "B"], "must be a whole number from 1 to 1e+18"),
        (["--params", "9" * 5000], "must be a whole number from 1 to 1e+18"),
        (["--params", "1e9", "--devices", "1e300"], "argument --devices: must be a whole number from 1 to 1e+18"),
        (
            ["--params", "1e9", "--min-offload-size", "100"],
            "'min_offload_size' must be 0 for a number of",
        ),
        (["--params", "1e9", "--dtype", "int8"], "invalid choice: 'int8'"),
        (
            ["--params", "1e9", "--link-gb-s", "-1"],
            "argument --link-gb-s: must be a number from 1e-09 to 1e+18, like 0.5 or 1e-3, but got '-1'",
        ),
        (["--params", "1e9", "--unknown"], "unrecognized arguments: --unknown"),
        (["--checkpoint", "states.ckpt"], "has no weights"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_errors_are_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = Parameter(Tensor(np.ones(1000, np.float32)), name="moment1.weight")
    ms.save_checkpoint([{"name": state.name, "data": state}], "states.ckpt")
    try:
        status = main(["estimate", "--host-gb-s", "40", *options])
    except SystemExit as error:  # argparse ends so
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1
