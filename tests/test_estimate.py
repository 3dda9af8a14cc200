"""``estimate`` agrees with what real optimizers allocate and real graphs move, and reads sizes without the values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from mindspore_offload import AdamOffload, commands, estimate, placement_report
from mindspore_offload.commands import main, sizes

SOURCE_TREE = Path(commands.__file__).parents[2]


def states_of(optimizer):
    updated = {parameter.name for parameter in optimizer.parameters}
    return sum(parameter.nbytes for parameter in optimizer.get_parameters() if parameter.name not in updated)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_states_are_what_an_optimizer_of_a_hundredth_allocates(dtype):
    parameter = Parameter(initializer("zeros", (70_000_000,), getattr(ms, dtype)), name="weight")
    ours, _, adam = estimate(7e9, dtype)
    assert ours.host_states == pytest.approx(100 * states_of(AdamOffload([parameter])), rel=1e-4)
    assert adam.device_states == pytest.approx(100 * states_of(nn.Adam([parameter])), rel=1e-4)
    assert ours.device_weights == adam.device_weights == 100 * parameter.nbytes


def test_nn_adam_offload_takes_what_it_allocates_or_refuses():
    parameter = Parameter(Tensor(np.zeros(1000, np.float32)), name="weight")
    _, offload, _ = estimate([parameter])
    assert offload.host_states == pytest.approx(states_of(nn.AdamOffload([parameter])), rel=0.01)
    assert estimate([parameter], "float16")[1].refused
    half = Parameter(Tensor(np.zeros(1000, np.float16)), name="weight")
    with pytest.raises(TypeError, match="Float32"):
        nn.AdamOffload([half])((Tensor(np.ones(1000, np.float16)),))


class Squares(nn.Cell):
    """A net of two weights."""

    def __init__(self, dtype):
        super().__init__()
        self.first = Parameter(Tensor(np.ones((1000, 30)), dtype), name="first")
        self.second = Parameter(Tensor(np.ones((1000, 30)), dtype), name="second")

    def construct(self, inputs):
        return (self.first**2 * inputs + self.second**2 * inputs).astype(ms.float32).sum()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_link_has_what_the_compiled_graph_moves(dtype):
    net = Squares(getattr(ms, dtype))
    optimizer = AdamOffload(net.trainable_params(), writeback="assign")
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((1000, 30)), getattr(ms, dtype)))
    ours = estimate(net.trainable_params())[0]
    assert ours.to_host == pytest.approx(found.to_host_bytes, rel=0.01)
    assert ours.to_device == pytest.approx(found.to_device_bytes, rel=0.01)
    assert ours.host_states == pytest.approx(sum(found.state_bytes["host"].values()), rel=0.01)


def test_options_that_change_bytes():
    params = [sizes.Size("large", 1000, "float32"), sizes.Size("small", 10, "bfloat16")]
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
    """Of float32, 8 bytes cross the link; of memory, states are read and written, and those 8 written and read."""
    ours, _, adam = estimate(1e9, link_gb_s=4.0, host_gb_s=16.0)
    assert ours.seconds == pytest.approx(8 / 4 + (16 + 16) / 16)
    assert adam.seconds is None
    assert estimate(1e9, link_gb_s=4.0, host_gb_s=16.0, devices=8)[0].seconds == pytest.approx(2 + 8 * 2)
    assert estimate(1e9, host_gb_s=28.0, writeback="in_place")[0].seconds == pytest.approx(1)
    assert estimate(1e9, host_gb_s=28.0)[0].seconds is None


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ([0], {}, ValueError, "'parameters' must be at least 1, but got 0"),
        ([[sizes.Size("w", 3, "int32")]], {}, TypeError, "the dtype of the parameter 'w' must be one of .* got int32"),
        (["7e9"], {}, TypeError, "'parameters' must be a number or parameters, but got '7e9' of type str"),
        ([nn.ReLU()], {}, TypeError, r"'parameters' must be .* ReLU.* give net.trainable_params\(\)"),
        ([5, "fp16"], {}, TypeError, "'dtype' must be None or one of .* but got 'fp16'"),
        ([5], {"max_grad_norm": -1.0}, ValueError, "'max_grad_norm' must be greater than 0, but got -1.0"),
        ([5], {"min_offload_size": -1}, ValueError, "'min_offload_size' must be at least 0, but got -1"),
        ([5], {"devices": 0}, ValueError, "'devices' must be greater than 0, but got 0"),
        ([5], {"writeback": "auto"}, ValueError, "'writeback' must be 'assign' or 'in_place', but got 'auto'"),
    ],
    ids=["no-parameters", "int32", "text", "net", "fp16", "norm", "size", "devices", "writeback"],
)
def test_what_the_function_refuses(arguments, settings, error, message):
    with pytest.raises(error, match=f"For 'estimate', .*{message}"):
        estimate(*arguments, **settings)


NETS = """
from mindspore import nn
def large():
    return nn.SequentialCell([nn.Dense(20000, 20000), nn.LayerNorm((20000,))])
def broken():
    raise ValueError("no configuration")
def nothing():
    return nn.ReLU()
"""


def test_a_net_takes_no_memory(tmp_path):
    """Of 1.6 GB of weights. In a process of its own, whose peak is that of this net."""
    (tmp_path / "nets_of_a_user.py").write_text(NETS)
    program = (
        "from mindspore_offload.commands import main\n"
        "main(['estimate', '--net', 'nets_of_a_user:large', '--dtype', 'bfloat16', '--host-gb-s', '10', '--json'])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_TREE)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    *printed, peak = run.stdout.splitlines()
    assert int(peak) * 1024 < 1e9
    report = json.loads("\n".join(printed))
    assert report["parameters"] == 20000 * 20000 + 3 * 20000
    assert report["footprints"]["bfloat16"][0]["host_states"] == 12 * report["parameters"]


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
    expected = [(p.name, p.size, str(p.dtype).lower()) for p in net.trainable_params()]
    assert sorted(map(tuple, sizes.of_checkpoint(path))) == sorted(expected)


def test_the_command_prints_each_dtype(capsys):
    assert main(["estimate", "--params=7e9", "--host-gb-s=40", "--devices=8", "--min-offload-size=0"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith("AdamOffload")]
    assert [row[5:7] for row in rows] == [["56.000", "448.000"], ["84.000", "672.000"], ["84.000", "672.000"]]
    assert printed.count("it takes float32 parameters only") == 2
    assert "bfloat16: AdamOffload needs 672.0 GB of this host" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --params --checkpoint --net is required"),
        (["--params", "many"], "must be a whole number of at least 1, but got 'many'"),
        (["--params", "1e9", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["--params", "1e9", "--link-gb-s", "-1"], "must be a number greater than 0, but got '-1'"),
        (["--params", "1e9", "--unknown"], "unrecognized arguments: --unknown"),
        (["--net", "nets"], "must be module:function"),
        (["--net", "no_such_module:build"], "No module named 'no_such_module'"),
        (["--net", "nets_of_a_user.py:no_such_function"], "has no attribute 'no_such_function'"),
        (["--net", "nets_of_a_user.py:broken"], "ValueError: no configuration"),
        (["--net", "nets_of_a_user.py:nothing"], "must return a Cell with parameters, but got ReLU"),
        (["--checkpoint", "no_such_file"], "No such file or directory"),
        (["--checkpoint", "nets_of_a_user.py"], "is neither a whole checkpoint"),
        (["--checkpoint", "half.ckpt"], "is neither a whole checkpoint"),
        (["--checkpoint", "nothing.safetensors"], "is neither a whole checkpoint"),
        (["--checkpoint", "states.ckpt"], "has no weights"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("nets_of_a_user.py").write_text(NETS)
    Path("nothing.safetensors").write_bytes(b"nothing")
    state = Parameter(Tensor(np.ones(1000, np.float32)), name="moment1.weight")
    ms.save_checkpoint([{"name": state.name, "data": state}], "states.ckpt")
    Path("half.ckpt").write_bytes(Path("states.ckpt").read_bytes()[:2000])
    try:
        status = main(["estimate", *options])
    except SystemExit as error:  # as argparse ends
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert message in printed.err
    assert printed.err.count("\n") == 1
