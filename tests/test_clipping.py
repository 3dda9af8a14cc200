# SPDX-License-Identifier: Apache-2.0

"""Clipping by the global norm, and steps skipped because the norm is not finite."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from nets import assert_same
from test_writeback import DTYPES, new_parameters, take_steps, values

from mindspore_offload import AdamOffload, AdamWOffload, native_library, placement_report

OPTIMIZERS = {"Adam": AdamOffload, "AdamW": AdamWOffload}
MIXED = ["float32", "float16", "bfloat16", "float32"]


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


@pytest.fixture(params=OPTIMIZERS)
def new_optimizer(request):
    return OPTIMIZERS[request.param]


def gradients_for(parameters, size=1.0, seed=6):
    random = np.random.default_rng(seed)
    return tuple(Tensor(size * random.standard_normal(p.shape).astype(np.float32)).astype(p.dtype) for p in parameters)


def spoiled(gradients, value):
    """Returns the gradients with one element of the last one replaced by `value`."""
    last = gradients[-1].asnumpy().copy()
    last[3] = value
    return (*gradients[:-1], Tensor(last))


@pytest.mark.parametrize("size", [1.0, 1e-3], ids=["clipped", "within"])
def test_the_norm_is_that_of_all_gradients(size, host_kernel):
    parameters = new_parameters(MIXED)
    optimizer = AdamOffload(parameters, host_kernel=host_kernel, loss_scale=128.0, max_grad_norm=1.0)
    gradients = gradients_for(parameters, 128 * size)
    optimizer(gradients)
    flat = np.concatenate([gradient.float().asnumpy() for gradient in gradients]).astype(np.float64)
    np.testing.assert_allclose(optimizer.global_norm.asnumpy(), [np.linalg.norm(flat) / 128], rtol=2e-7)


@pytest.mark.parametrize("value", [1.0, np.inf, np.nan], ids=str)
def test_clips_as_mindspore_does(value, host_kernel, writeback, new_optimizer):
    """Equals `ops.clip_by_global_norm` and an optimizer that doesn't clip, for infinite and NaN norms too."""
    ends = []
    for inside in (True, False):
        parameters = new_parameters(["float32", "float32"])
        settings = {"host_kernel": host_kernel, "writeback": writeback, "weight_decay": 0.1}
        optimizer = new_optimizer(parameters, 0.01, **settings, max_grad_norm=2.0 if inside else None)
        gradients = spoiled(gradients_for(parameters), value)
        optimizer(gradients if inside else tuple(ops.clip_by_global_norm(gradients, 2.0)))
        ends.append(values(optimizer))
    for name, value in ends[1].items():
        np.testing.assert_allclose(ends[0][name], value, rtol=3e-5, atol=1e-9, err_msg=name)


class DecayThatBeginsAtZero(nn.Cell):
    def construct(self, global_step):
        return 0.01 * global_step.astype(ms.float32)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "use_nesterov": True},
        {"weight_decay": DecayThatBeginsAtZero()},
    ],
    ids=["plain", "decay", "nesterov", "decay-from-zero"],
)
def test_both_writebacks_end_in_the_same_bits(settings, new_optimizer):
    ends = []
    for writeback in ("in_place", "assign"):
        optimizer = new_optimizer(
            new_parameters(MIXED), 0.01, host_kernel="native", writeback=writeback, max_grad_norm=1.0, **settings
        )
        take_steps(optimizer, 20)
        ends.append(values(optimizer))
    assert_same(*ends)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_does_not_matter(threads):
    """The gradients are several chunks, each with its own sum."""
    library = native_library.load()
    before = library.MindsporeOffloadThreads()
    ends = []
    for count in (1, threads):
        library.MindsporeOffloadSetThreads(count)
        optimizer = AdamOffload(
            new_parameters(["float32", "float16"], 300_001), host_kernel="native", max_grad_norm=1.0
        )
        take_steps(optimizer, 2)
        ends.append(values(optimizer))
    library.MindsporeOffloadSetThreads(before)
    assert_same(*ends)


@pytest.mark.parametrize("max_grad_norm", [None, 1.0], ids=["not-clipped", "clipped"])
def test_a_nonfinite_step_is_skipped(max_grad_norm, host_kernel, writeback, new_optimizer):
    """A skipped step changes only `skipped_steps` and `global_norm`. The steps after it are as without it."""
    ends = {}
    for disturbed in (False, True):
        parameters = new_parameters([*MIXED, "float32"])
        optimizer = new_optimizer(
            parameters,
            0.01,
            host_kernel=host_kernel,
            writeback=writeback,
            weight_decay=0.1,
            max_grad_norm=max_grad_norm,
            skip_nonfinite=True,
        )
        for step in range(3):
            value = {0: np.inf, 2: np.nan}.get(step)  # the first step, too
            if disturbed and value is not None:
                before = values(optimizer)
                optimizer(spoiled(gradients_for(parameters), value))
                after = values(optimizer)
                assert not np.isfinite(after.pop("global_norm"))
                assert after.pop("skipped_steps") == before.pop("skipped_steps") + 1
                assert_same(after, {name: v for name, v in before.items() if name != "global_norm"})
            optimizer(gradients_for(parameters, seed=step))
        assert optimizer.global_step.asnumpy() == [3]
        ends[disturbed] = values(optimizer)
    assert ends[True].pop("skipped_steps") == [2]
    assert ends[False].pop("skipped_steps") == [0]
    assert_same(ends[True], ends[False])


def test_norm_and_count_are_saved_and_optional(tmp_path):
    optimizer = AdamOffload(new_parameters(["float32"]), max_grad_norm=1.0, skip_nonfinite=True)
    optimizer(spoiled(gradients_for(optimizer.parameters), np.inf))
    optimizer(gradients_for(optimizer.parameters))
    ms.save_checkpoint(optimizer, str(tmp_path / "saved.ckpt"))
    saved = ms.load_checkpoint(str(tmp_path / "saved.ckpt"))

    resumed = AdamOffload(new_parameters(["float32"]), max_grad_norm=1.0, skip_nonfinite=True)
    assert ms.load_param_into_net(resumed, saved, strict_load=True) == ([], [])
    assert resumed.skipped_steps.asnumpy() == [1]
    assert resumed.global_norm.asnumpy() == optimizer.global_norm.asnumpy() > 0

    added = {"global_norm", "skipped_steps"}
    without = {name: value for name, value in saved.items() if name not in added}
    missing, _ = ms.load_param_into_net(resumed, without, strict_load=True)
    assert set(missing) == added
    assert not added & {p.name for p in AdamOffload(new_parameters(["float32"])).get_parameters()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_not_copied(dtype, writeback):
    """Only the two operations of the library touch a gradient, and the norm is one launch.

    The device copies the learning rate and 16-bit parameters for the host. It adds a float32 difference to its
    parameter, and selects the old value in a skipped step.
    """
    net = nn.Dense(300, 300).to_float(ms.float32)
    for parameter in net.get_parameters():
        parameter.set_dtype(DTYPES[dtype])
    optimizer = AdamOffload(
        net.trainable_params(), writeback=writeback, host_kernel="native", max_grad_norm=1.0, skip_nonfinite=True
    )
    found = placement_report(nn.TrainOneStepCell(net, optimizer), Tensor(np.ones((2, 300), np.float32)))
    launched = [operation for operation in found.operations if operation.name.startswith("Custom")]
    assert sorted(launched) == [
        (f"Custom {name}", "host") for name in sorted([UPDATES[writeback], "SumsOfSquares", "GlobalNorm"])
    ]
    on_device = [operation.name for operation in found.operations if operation.place == "device"]
    writes = {"float32": ["Add", "Select", "Assign"], "float16": ["Assign"], "bfloat16": ["InplaceCopy"]}
    copies = 1 + 2 * (dtype == "float16")  # on the CPU, there is no copy of bfloat16
    expected = ["TensorMove"] * copies + 2 * writes[dtype] + ["Greater"] * (dtype == "float32")
    assert sorted(on_device) == (sorted(expected) if writeback == "assign" else [])


UPDATES = {"in_place": "AdamInPlace", "assign": "AdamAssign"}


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_grad_norm": "1"}, TypeError, r"'max_grad_norm' must be None or a float, but got '1' of type str"),
        ({"max_grad_norm": True}, TypeError, r"'max_grad_norm' must be None or a float, but got True of type bool"),
        ({"max_grad_norm": 0}, ValueError, r"'max_grad_norm' must be None, or greater than 0 and finite in .* got 0"),
        ({"max_grad_norm": float("inf")}, ValueError, r"'max_grad_norm' must be None, or .* got inf"),
        ({"max_grad_norm": 1e39}, ValueError, r"'max_grad_norm' must be None, or .* got 1e\+39"),
        ({"max_grad_norm": 1e-50}, ValueError, r"'max_grad_norm' must be None, or .* got 1e-50"),
        ({"max_grad_norm": float("nan")}, ValueError, r"'max_grad_norm' must be None, or .* got nan"),
        ({"skip_nonfinite": 1}, TypeError, r"'skip_nonfinite' must be a bool, but got 1 of type int"),
        ({"min_offload_size": 1.5}, TypeError, r"'min_offload_size' must be an int.* but got 1.5 of type float"),
        ({"min_offload_size": True}, TypeError, r"'min_offload_size' must be an int.* but got True of type bool"),
        ({"min_offload_size": -1}, ValueError, r"'min_offload_size' must be at least 0, but got -1"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(settings, error, text, new_optimizer):
    with pytest.raises(error, match=f"For '{new_optimizer.__name__}', the argument {text}"):
        new_optimizer(new_parameters(["float32"]), **settings)
