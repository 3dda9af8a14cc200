# SPDX-License-Identifier: Apache-2.0

"""Steps skipped because the global norm is not finite: they change no bit, and later steps are as without them."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from nets import assert_same
from steps import DTYPES, OPTIMIZERS, PLACES, gradients_for, new_parameters, restore, spoiled, values

from mindspore_offload import AdamOffload

ODD = np.array([0, -0.0, 1e-40, -1e-45, np.inf, -np.inf, 3.4e38, -1.5, 1.1754944e-38, np.nan, 6e-8, 65504], np.float32)

SETTINGS = {
    "plain": {},
    "decay+clip+nesterov": {"weight_decay": 0.1, "max_grad_norm": 1.0, "use_nesterov": True},
    "bfloat16-moments": {"moment_dtype": ms.bfloat16, "max_grad_norm": 1.0},
}
ALL_PLACES = {**PLACES, "device": {"offload_ratio": 0.0}}
BY_DEFAULT = {
    ("Adam", "plain"): ["native-assign", "stock-in_place"],
    ("Adam", "decay+clip+nesterov"): ["native-in_place", "native-assign", "stock-assign", "device"],
    ("Adam", "bfloat16-moments"): ["native-in_place"],
    ("AdamW", "plain"): ["native-in_place", "device"],
    ("AdamW", "decay+clip+nesterov"): ["native-in_place", "native-assign", "stock-in_place"],
    ("AdamW", "bfloat16-moments"): ["native-assign"],
}
COMBINATIONS = [
    pytest.param(*case, place, marks=() if place in by_default else pytest.mark.full)
    for case, by_default in BY_DEFAULT.items()
    for place in ALL_PLACES
    if "native" in place or "bfloat16-moments" not in case
]


def bits_of(optimizer):
    """Returns the bytes of all weights and states but those that a skipped step writes."""
    kept = values(optimizer)
    return {name: v.tobytes() for name, v in kept.items() if name not in ("skipped_steps", "global_norm")}


@pytest.mark.parametrize(("optimizer", "settings", "place"), COMBINATIONS)
def test_a_skipped_step_changes_no_bit(optimizer, settings, place):
    """Arithmetic would: it loses the sign of -0 and subnormal numbers, and makes NaN of infinities."""
    weights = [Parameter(Tensor(ODD).astype(dtype), name=name) for name, dtype in DTYPES.items()]
    optimizer = OPTIMIZERS[optimizer](weights, 0.1, skip_nonfinite=True, **SETTINGS[settings], **ALL_PLACES[place])
    start = values(optimizer)
    for state in (*optimizer.moment1, *optimizer.moment2, *optimizer.master):
        state.set_data(Tensor(ODD[::-1].copy()).astype(state.dtype))
    before = bits_of(optimizer)
    for count, bad in enumerate((np.inf, np.nan), start=1):
        gradients = [np.full(ODD.shape, 0.3, np.float32) for _ in weights]
        gradients[count][3] = bad
        optimizer(tuple(Tensor(gradient).astype(weight.dtype) for gradient, weight in zip(gradients, weights)))
        assert bits_of(optimizer) == before
        assert optimizer.skipped_steps.asnumpy() == [count]
        assert not np.isfinite(optimizer.global_norm.asnumpy())

    # The same steps, without and with others that are skipped: the first one, too.
    ends = []
    for disturbed in (False, True):
        restore(optimizer, start)
        for parameter in weights:
            parameter.set_data(Tensor(np.linspace(-1, 1, len(ODD)), parameter.dtype))
        for step, value in enumerate((np.inf, None, np.nan)):
            if disturbed and value is not None:
                optimizer(spoiled(gradients_for(weights), value))
            optimizer(gradients_for(weights, seed=step))
        assert optimizer.global_step.asnumpy() == [3]
        assert optimizer.skipped_steps.asnumpy() == [2 * disturbed]
        ends.append({name: value for name, value in values(optimizer).items() if name != "skipped_steps"})
    assert_same(*ends)


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
