# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of MindSpore, MindFormers and MindCV, written by hand: converted exactly, or refused in words."""

import itertools

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_offload import convert_checkpoint

# The prefixes of both moments; the name of the count, its value before the first step, and its dtype and shape.
FORMS = {
    "mindformers.AdamW": ("adam_m", "adam_v", "global_step", 0, np.int32, (1,)),
    "mindformers.FusedAdamW": ("exp_avg", "exp_avg_sq", "global_step", -1, np.int32, (1,)),
    "mindcv.AdamW": ("adam_m", "adam_v", "global_step", 0, np.int32, (1,)),
    "nn.AdamWeightDecay": ("adam_m", "adam_v", "global_step", 0, np.int32, (1,)),
    "FusedCastAdamWeightDecay": ("adam_m", "adam_v", "global_step", 0, np.int32, (1,)),
    "mint.optim.Adam": ("exp_avg", "exp_avg_sq", "state_step", 0, np.float32, (1,)),
    "mint.optim.AdamW": ("exp_avg", "exp_avg_sq", "state_step", -1, np.float32, (1,)),
    "experimental.optim.Adam": ("exp_avg", "exp_avg_sq", "state_step", 0, np.int32, ()),
    "experimental.optim.AdamW": ("exp_avg", "exp_avg_sq", "state_step", 0, np.int32, ()),
}


def form_of(source, steps, **changed):
    """Returns a checkpoint of an optimizer of one parameter, as `saved`. None removes an item."""
    moment1, moment2, name, first, dtype, shape = FORMS[source]
    count = np.full(shape, steps + first, dtype)
    arrays = {f"{moment1}__w": np.float32([1]), f"{moment2}__w": np.float32([2]), name: count}
    if source.startswith("experimental"):
        arrays["max_exp_avg_sq__w"] = np.float32([0])
    if source == "mindcv.AdamW":
        arrays.update(beta1_power=np.float32([0.8**steps]), beta2_power=np.float32([0.999**steps]))
    return saved(**{name: array for name, array in {**arrays, **changed}.items() if array is not None})


def saved(**arrays):
    """Returns a checkpoint with these arrays. A double underscore stands for the first dot of a name."""
    names = {name: name.replace("__", ".", 1) for name in arrays}
    return {names[name]: Parameter(Tensor(array), name=names[name]) for name, array in arrays.items()}


@pytest.mark.parametrize("source", ["mindformers.AdamW", "mindcv.AdamW"])
def test_an_adamw_that_corrects_the_bias_causes_no_warning(source, recwarn):
    convert_checkpoint(form_of(source, 3), source)
    assert not recwarn


def test_powers_of_the_checkpoint_stay():
    """With a fixed learning rate, MindCV counts no steps."""
    checkpoint = form_of("mindcv.AdamW", 0, beta1_power=np.float32([0.5]), beta2_power=np.float32(0.25))
    converted = convert_checkpoint(checkpoint, "mindcv.AdamW")
    assert [converted[name].asnumpy().item() for name in ("beta1_power", "beta2_power")] == [0.5, 0.25]


@pytest.mark.parametrize("source", FORMS)
def test_every_form_is_converted(source):
    """The forms are those of MindSpore 2.10, MindFormers 1.3 and 2.1 and MindCV 0.3, after 5 steps."""
    of_net = {name: Parameter(Tensor([2.0]), name=name) for name in ("w", "moment1")}
    checkpoint = {**form_of(source, 5), **of_net, "epoch": "5"}
    before = {**checkpoint}
    if source in ("nn.AdamWeightDecay", "FusedCastAdamWeightDecay"):
        with pytest.warns(UserWarning, match=f"{source} does not correct the bias"):
            converted = convert_checkpoint(checkpoint, source, beta1=0.8)
    else:
        converted = convert_checkpoint(checkpoint, source, beta1=0.8)
    assert checkpoint == before
    names = {"w", "moment1", "epoch", "moment1.w", "moment2.w", "global_step", "beta1_power", "beta2_power"}
    assert converted.keys() == names
    for name, value in (("moment1.w", [1]), ("moment2.w", [2]), ("global_step", [5]), ("w", [2]), ("moment1", [2])):
        assert converted[name].name == name
        assert converted[name].asnumpy().tolist() == value
    np.testing.assert_allclose(converted["beta1_power"].asnumpy(), [0.8**5], rtol=1e-6)
    np.testing.assert_allclose(converted["beta2_power"].asnumpy(), [0.999**5], rtol=1e-6)


@pytest.mark.parametrize("source", FORMS)
def test_the_form_of_another_optimizer_is_refused(source):
    """Some optimizers have the same names, the same dtype and the same count. Nothing tells them apart."""
    for other, form in FORMS.items():
        if (form[:3], form[4]) != (FORMS[source][:3], FORMS[source][4]):
            with pytest.raises(
                (ValueError, TypeError), match=r"^For 'convert_checkpoint', the argument 'checkpoint' must"
            ):
                convert_checkpoint(form_of(other, 5), source)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"adam_v__w": None},
            r"hold two moments of one shape for each parameter, but got the shapes {'moment1': \(1,\)} for 'w'",
        ),
        ({"adam_v__w": np.float32([1, 2])}, r"hold two moments of one shape .* \(1,\), 'moment2': \(2,\)} for 'w'"),
        ({"adam_m__w": np.int32([1])}, r"float32 or float64 in 'adam_m.w', but got one of int32"),
        ({"moment1__w": np.float32([1])}, r"hold only states of mindformers.AdamW, but got 'moment1.w', too"),
        ({"muon_m__w": np.float32([1])}, r"hold only states of mindformers.AdamW, but got 'muon_m.w', too"),
        (
            {"pma_weight_ema__w": np.float32([1])},
            r"hold only states of mindformers.AdamW, but got 'pma_weight_ema.w', too",
        ),
        ({"max_exp_avg_sq__w": np.float32([1])}, r"without AMSGrad, but got 'max_exp_avg_sq.w'"),
        ({"beta1_power": np.float32([1.5])}, r"hold one number from 0 to 1 in 'beta1_power'"),
        ({"beta2_power": np.float32([0.5, 0.5])}, r"hold one number from 0 to 1 in 'beta2_power'"),
        ({"global_step": np.int32([0])}, r"count the steps of its moments, which are not zero, but got 0 steps"),
        ({"global_step": np.int32([-1])}, r"one whole number from 0 to 2147483647 in 'global_step', but got \[-1\]"),
        ({"global_step": np.zeros(0, np.int32)}, r"one whole number .*, but got \[\]"),
        ({"global_step": np.int32([3, 4])}, r"one whole number .*, but got \[3, 4\]"),
        ({"global_step": np.float32([2.5])}, r"one whole number .*, but got \[2.5\]"),
        ({"global_step": np.int64([2**31])}, r"one whole number .*, but got \[2147483648\]"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_checkpoint_that_does_not_fit_is_refused(changed, message):
    checkpoint = form_of("mindformers.AdamW", 5, **changed)
    with pytest.raises((ValueError, TypeError), match=f"^For 'convert_checkpoint', .*{message}"):
        convert_checkpoint(checkpoint, "mindformers.AdamW")


@pytest.mark.parametrize("steps", [2**24 + 1, 2**31 - 1], ids=["2^24+1", "max"])
def test_steps_are_exact(steps):
    converted = convert_checkpoint(form_of("mindformers.AdamW", steps), "mindformers.AdamW")
    assert converted["global_step"].asnumpy().tolist() == [steps]


def test_odd_values_are_refused_in_words():
    """Each item of each form is replaced by each odd value."""
    array = np.ones((2, 2), np.complex64)
    values = [None, "1", 1, 2.5, [], {}, array, Tensor(array), Tensor([True, False]), Tensor(np.ones((3, 1), np.int8))]
    values.append(object())
    for source in FORMS:
        form = form_of(source, 5)
        for name, odd in itertools.product(form, values):
            if not (name.endswith(("step", "power")) and odd is values[2]):  # a number
                with pytest.raises((ValueError, TypeError), match=r"^For 'convert_checkpoint', the argument '"):
                    convert_checkpoint({**form, name: odd}, source)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"checkpoint": "saved.ckpt"}, TypeError, r"'checkpoint' must be a dict, but got 'saved.ckpt' of type str"),
        ({"checkpoint": {1: 2}}, TypeError, r"'checkpoint' must have names as keys, but got 1 of type int"),
        ({"checkpoint": {}}, ValueError, r"'checkpoint' must hold 'global_step', 'adam_m.<parameter>' and"),
        ({"source": "AdamW"}, ValueError, r"'source' must be one of \[.*'torch\.optim\.AdamW'\], but got 'AdamW'"),
        (
            {"source": "nn.Adam"},
            ValueError,
            r"'source' must be .*; checkpoints of nn.Adam and nn.AdamOffload load as they are",
        ),
        ({"source": ["nn.Adam"]}, TypeError, r"'source' must be one of"),
        ({"source": nn.AdamWeightDecay}, TypeError, r"'source' must be one of"),
        ({"names": ["w"]}, ValueError, r"'names' must be None for mindformers.AdamW, but got \['w'\]"),
        *[
            ({"beta1": beta}, ValueError, r"'beta1' must be a float between 0 and 1")
            for beta in (1.0, 0, -0.9, 1 - 1e-9, 1e-60)
        ],
        ({"beta2": float("nan")}, ValueError, r"'beta2' must be a float between 0 and 1"),
        *[
            ({"beta2": beta}, TypeError, r"'beta2' must be a float between 0 and 1 in float32, but got")
            for beta in ("0.9", None, True, [0.9], 1j)
        ],
    ],
    ids=lambda value: next((f"{k}-{v!r:.20}" for k, v in value.items()), None) if isinstance(value, dict) else None,
)
def test_odd_arguments_are_refused(arguments, error, message):
    arguments = {"checkpoint": form_of("mindformers.AdamW", 5), "source": "mindformers.AdamW", **arguments}
    with pytest.raises(error, match=f"^For 'convert_checkpoint', the argument {message}"):
        convert_checkpoint(**arguments)


@pytest.mark.parametrize("source", ["mindformers.AdamW", "mint.optim.AdamW"])
def test_a_checkpoint_of_a_net_alone_is_refused(source):
    with pytest.raises(ValueError, match=rf"'checkpoint' must hold '\w+_step'.* but got \['net.w'\].* {source}, not"):
        convert_checkpoint(saved(net__w=np.ones(3, np.float32)), source)
