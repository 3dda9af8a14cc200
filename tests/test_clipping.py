# SPDX-License-Identifier: Apache-2.0

"""Clipping by the global norm. test_update.py compares its updates with float64, test_skipping.py has skipped steps."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from steps import (
    DTYPES,
    MIXED,
    OPTIMIZERS,
    PLACES,
    as_float32,
    gradients_for,
    new_parameters,
    restore,
    spoiled,
    values,
)

from mindspore_offload import AdamOffload, placement_report


@pytest.mark.parametrize("host_kernel", ["native", "stock"])
def test_the_norm_is_that_of_all_gradients(host_kernel):
    parameters = new_parameters(MIXED)
    optimizer = AdamOffload(parameters, host_kernel=host_kernel, loss_scale=128.0, max_grad_norm=1.0)
    for size in (1.0, 1e-3):  # clipped, and within the bound
        gradients = gradients_for(parameters, 128 * size)
        optimizer(gradients)
        flat = np.concatenate([as_float32(gradient) for gradient in gradients]).astype(np.float64)
        np.testing.assert_allclose(optimizer.global_norm.asnumpy(), [np.linalg.norm(flat) / 128], rtol=2e-7)


LAST_ELEMENTS = [1.0, np.inf, np.nan]


def ends_of(optimizer, clip):
    """Returns the values after a step from the same start, for gradients with each of the last elements."""
    start, ends = values(optimizer), []
    for value in LAST_ELEMENTS:
        restore(optimizer, start)
        optimizer(clip(spoiled(gradients_for(optimizer.parameters), value)))
        ends.append(values(optimizer))
    return ends


@pytest.fixture(scope="module", params=OPTIMIZERS)
def clipped_by_mindspore(request):
    """A class of optimizers, and the ends of one that doesn't clip and gets gradients that MindSpore has clipped."""
    optimizer_class = OPTIMIZERS[request.param]
    optimizer = optimizer_class(new_parameters(["float32", "float32"]), 0.01, weight_decay=0.1)
    return optimizer_class, ends_of(optimizer, lambda gradients: tuple(ops.clip_by_global_norm(gradients, 2.0)))


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=pytest.mark.full if place == "stock-in_place" else ()) for place in PLACES]
)
def test_clips_as_mindspore_does(place, clipped_by_mindspore):
    """For infinite and NaN norms too."""
    optimizer_class, expected = clipped_by_mindspore
    parameters = new_parameters(["float32", "float32"])
    optimizer = optimizer_class(parameters, 0.01, weight_decay=0.1, max_grad_norm=2.0, **PLACES[place])
    for end, expected_end in zip(ends_of(optimizer, lambda gradients: gradients), expected):
        for name, value in expected_end.items():
            np.testing.assert_allclose(end[name], value, rtol=3e-5, atol=1e-9, err_msg=name)


def test_gradients_are_not_copied():
    """The norm and the update read them where they are: only they, and 16-bit parameters, go to the host."""
    layers = nn.SequentialCell(*[nn.Dense(300, 300, has_bias=False).to_float(DTYPES["float32"]) for _ in DTYPES])
    for layer, dtype in zip(layers, DTYPES.values()):
        layer.weight.set_dtype(dtype)
    parameters = layers.trainable_params()
    optimizer = AdamOffload(
        parameters, host_kernel="native", writeback="assign", max_grad_norm=1.0, skip_nonfinite=True
    )
    found = placement_report(nn.TrainOneStepCell(layers, optimizer), Tensor(np.ones((2, 300), np.float32)))
    launched = sorted(operation for operation in found.operations if operation.name.startswith("Custom"))
    assert launched == [(f"Custom {name}", "host") for name in ("AdamAssign", "GlobalNorm", "SumsOfSquares")]
    size = 300 * 300
    assert found.to_host_bytes == pytest.approx((4 + 2 + 2) * size + (2 + 2) * size, rel=1e-3)
    assert found.to_device_bytes == pytest.approx((4 + 2 + 2) * size, rel=1e-3)


@pytest.mark.parametrize("new_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"max_grad_norm": "1"}, TypeError, r"'max_grad_norm' must be None, or a number .* but got '1' of type str"),
        ({"max_grad_norm": True}, TypeError, r"'max_grad_norm' must be None, or a number .* but got True of type bool"),
        (
            {"max_grad_norm": 0},
            ValueError,
            r"'max_grad_norm' must be None, or a number greater than 0 and finite in .* got 0",
        ),
        ({"max_grad_norm": float("inf")}, ValueError, r"'max_grad_norm' must be None, or .* got inf"),
        ({"max_grad_norm": 1e39}, ValueError, r"'max_grad_norm' must be None, or .* got 1e\+39"),
        ({"max_grad_norm": 1e-50}, ValueError, r"'max_grad_norm' must be None, or .* got 1e-50"),
        ({"max_grad_norm": float("nan")}, ValueError, r"'max_grad_norm' must be None, or .* got nan"),
        ({"skip_nonfinite": 1}, TypeError, r"'skip_nonfinite' must be a bool, but got 1 of type int"),
        ({"min_offload_size": 1.5}, TypeError, r"'min_offload_size' must be an int.* but got 1.5 of type float"),
        ({"min_offload_size": True}, TypeError, r"'min_offload_size' must be an int.* but got True of type bool"),
        ({"min_offload_size": -1}, ValueError, r"'min_offload_size' must be an int.* of at least 0, but got -1"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(settings, error, text, new_optimizer):
    with pytest.raises(error, match=f"For '{new_optimizer.__name__}', the argument {text}"):
        new_optimizer(new_parameters(["float32"]), **settings)
