# SPDX-License-Identifier: Apache-2.0

"""The forms of a `state_dict` of PyTorch, written by hand: converted with their bits, or refused in words.

Those of PyTorch itself are tested in test_peers.py.
"""

import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindspore_offload import AdamOffload, AdamWOffload, convert_checkpoint

ADAM, ADAMW = "torch.optim.Adam", "torch.optim.AdamW"
NAMES = ["fc.weight", "fc.bias"]
SHAPES = [(4, 3), (4,)]

# The keys that each release added to the groups of AdamW.
RELEASES = {
    "1.2": {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
    "1.12": {"foreach": None, "maximize": False, "capturable": False},
    "2.0": {"differentiable": False, "fused": None},
    "2.13": {"decoupled_weight_decay": True},
}
KEYS = dict(zip(RELEASES, itertools.accumulate(RELEASES.values(), lambda one, other: {**one, **other})))


class TorchTensor:
    """The part of `torch.Tensor` that the conversion needs."""

    def __init__(self, values, dtype="float32"):
        self.values, self.dtype = np.asarray(values, dtype), f"torch.{dtype}"

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return TorchTensor(self.values, "float32")

    def numpy(self):
        return self.values

    def item(self):
        return self.values.item()


MOMENTS = [[np.random.default_rng([8, i]).random(shape, np.float32) for shape in SHAPES] for i in range(2)]
STEPS = {
    "int": 7,
    "float": 7.0,
    "float32": TorchTensor(7),
    "float64": TorchTensor(7, "float64"),
    "int64": TorchTensor(7, "int64"),
    "one-element": TorchTensor([7]),
    "numpy": np.int64(7),
}


def state_dict_of(step=7, form="numbers", **changed):
    """Returns the state_dict of two parameters in one group, whose keys `changed` replaces."""
    keys = [0, 1] if form in ("numbers", "param_names") else NAMES
    states = {
        key: {"step": step, "exp_avg": TorchTensor(m), "exp_avg_sq": TorchTensor(v)}
        for key, m, v in zip(keys, *MOMENTS)
    }
    group = {**KEYS["2.13"], "params": keys, **changed}
    if form == "param_names":
        group["param_names"] = NAMES
    if form != "flattened":
        return {"state": states, "param_groups": [group]}
    flat = {f"state.{name}.{key}": value for name, state in states.items() for key, value in state.items()}
    del group["params"]
    return {**flat, **{f"param_groups.{name}.{key}": value for name in NAMES for key, value in group.items()}}


def assert_converted(converted, step=7):
    expected = {f"moment{i + 1}.{n}": value for i in range(2) for n, value in zip(NAMES, MOMENTS[i])}
    assert converted.keys() == {*expected, "global_step", "beta1_power", "beta2_power"}
    for name, value in expected.items():
        assert converted[name].name == name
        np.testing.assert_array_equal(converted[name].asnumpy(), value)
    assert converted["global_step"].asnumpy() == [step]
    for power, beta in (("beta1_power", 0.8), ("beta2_power", 0.99)):
        np.testing.assert_allclose(converted[power].asnumpy(), [beta**step], rtol=1e-5)


@pytest.mark.parametrize("form", ["numbers", "param_names", "names", "flattened"])
@pytest.mark.parametrize("gives_names", [True, False], ids=["names-given", "names-inside"])
def test_every_form_is_converted(form, gives_names):
    if form == "numbers" and not gives_names:
        with pytest.raises(ValueError, match=r"'names' must have .* the 2 parameters, .* but got 0 of them; give the"):
            convert_checkpoint(state_dict_of(), ADAMW)
        return
    assert_converted(convert_checkpoint(state_dict_of(form=form), ADAMW, names=NAMES if gives_names else None))


@pytest.mark.parametrize("release", KEYS)
@pytest.mark.parametrize("source", [ADAM, ADAMW])
def test_every_release_is_converted(release, source):
    """The states load into both optimizers."""
    state_dict = state_dict_of()
    state_dict["param_groups"] = [{**KEYS[release], "params": [0, 1]}]
    if release == "2.13":
        state_dict["param_groups"][0]["decoupled_weight_decay"] = source == ADAMW
    converted = convert_checkpoint(state_dict, source, names=NAMES)
    assert_converted(converted)
    parameters = [Parameter(Tensor(np.zeros(s, np.float32)), name=name) for name, s in zip(NAMES, SHAPES)]
    optimizer = (AdamWOffload if source == ADAMW else AdamOffload)(parameters)
    missing, unused = ms.load_param_into_net(optimizer, converted, strict_load=True)
    assert not unused
    assert not any(name.startswith("moment") for name in missing)


@pytest.mark.parametrize("step", STEPS)
def test_every_form_of_a_step_is_converted(step):
    assert_converted(convert_checkpoint(state_dict_of(STEPS[step]), ADAMW, names=NAMES))


@pytest.mark.parametrize("step", [2**24 + 1, TorchTensor(2**24 + 1, "float64"), 2**31 - 1], ids=["2^24+1", "64", "max"])
def test_steps_are_exact(step):
    converted = convert_checkpoint(state_dict_of(step), ADAMW, names=NAMES)
    assert converted["global_step"].asnumpy().tolist() == [getattr(step, "values", step)]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_moments_become_float32(dtype):
    state_dict = state_dict_of()
    state_dict["state"][0]["exp_avg"] = TorchTensor(np.full((4, 3), 0.5), dtype)
    moment = convert_checkpoint(state_dict, ADAMW, names=NAMES)["moment1.fc.weight"]
    assert moment.dtype == ms.float32
    assert (moment.asnumpy() == 0.5).all()


def test_a_moment_in_another_order_of_memory_and_a_parameter_without_gradient():
    """PyTorch keeps moments in the order of their weight, channels_last for example."""
    state_dict = state_dict_of()
    state_dict["state"][0]["exp_avg"].values = np.asfortranarray(MOMENTS[0][0])
    del state_dict["state"][1]
    converted = convert_checkpoint(state_dict, ADAMW, names=NAMES)
    np.testing.assert_array_equal(converted["moment1.fc.weight"].asnumpy(), MOMENTS[0][0])
    assert "moment1.fc.bias" not in converted


def test_a_state_dict_stays_as_it_is():
    state_dict = state_dict_of(form="flattened")
    before = {**state_dict}
    assert_converted(convert_checkpoint(state_dict, ADAMW))
    assert state_dict == before


PLAIN = {**KEYS["2.0"], "params": [0, 1]}


def without(group, *keys):
    return {key: value for key, value in group.items() if key not in keys}


# Groups of other optimizers in PyTorch 2, and what the message says.
OTHERS = {
    "Adam": ({**PLAIN, "decoupled_weight_decay": False}, r"decoupled_weight_decay=True.*source='torch.optim.Adam'"),
    "maximize": ({**PLAIN, "maximize": True}, r"have maximize=False .* but got True; .* negated gradients"),
    "AMSGrad": ({**PLAIN, "amsgrad": True}, r"have amsgrad=False in each group, but got True"),
    "Adamax": (without(PLAIN, "amsgrad", "fused"), r"be of a torch.optim.AdamW, .* 'amsgrad', but got a group with"),
    "NAdam": ({**without(PLAIN, "amsgrad"), "momentum_decay": 0.004, "decoupled_weight_decay": True}, r"'amsgrad'"),
    "RAdam": ({**without(PLAIN, "amsgrad"), "decoupled_weight_decay": True}, r"RAdam, NAdam and Adamax"),
    "SGD": ({**without(PLAIN, "amsgrad", "betas"), "momentum": 0.9}, r"'betas'"),
    "DeepSpeed": ({**PLAIN, "bias_correction": False}, r"have bias_correction=True in each group, but got False"),
}


@pytest.mark.parametrize("optimizer", OTHERS)
def test_another_optimizer_is_refused(optimizer):
    group, message = OTHERS[optimizer]
    with pytest.raises(ValueError, match=rf"^For 'convert_checkpoint', the argument 'checkpoint' must .*{message}"):
        convert_checkpoint({**state_dict_of(), "param_groups": [group]}, ADAMW, names=NAMES)


def test_an_adamw_is_no_adam():
    with pytest.raises(ValueError, match=r"decoupled_weight_decay=False .* but got True.*source='torch.optim.AdamW'"):
        convert_checkpoint(state_dict_of(), ADAM, names=NAMES)


@pytest.mark.parametrize("extra", ["exp_inf", "mu_product", "max_exp_avg_sq", "master_param"])
def test_a_state_of_another_optimizer_is_refused(extra):
    state_dict = state_dict_of()
    state_dict["state"][1][extra] = TorchTensor(0)
    with pytest.raises(
        ValueError, match=rf"must have the states \['exp_avg', 'exp_avg_sq', 'step'\] for the parameter 1.*'{extra}'\]"
    ):
        convert_checkpoint(state_dict, ADAMW, names=NAMES)


GENERATOR = (name for name in NAMES)
NOT_A_LIST = {
    "text": "fc.weight",
    "set": {*NAMES},
    "generator": GENERATOR,
    "number": 3,
    "numbers": [0, 1],
    "none": [None],
}
ODD_NAMES = {
    **{case: (value, TypeError, "as a list of str") for case, value in NOT_A_LIST.items()},
    "parameters": (
        [Parameter(Tensor([1.0]), name=name) for name in NAMES],
        TypeError,
        r"as a list of str.*\[p.name for p in",
    ),
    "twice": (["w", "w"], ValueError, "another name for each of the 2 parameters, .* but got 'w' again at index 1"),
    "empty": (["w", ""], ValueError, "another name for each of the 2 parameters"),
    "too-few": (["w"], ValueError, r"the 2 parameters, in their order, .* but got 1 of them"),
    "none-at-all": ([], ValueError, r"the 2 parameters, in their order, .* but got 0 of them"),
}


@pytest.mark.parametrize(("names", "error", "message"), ODD_NAMES.values(), ids=ODD_NAMES)
@pytest.mark.parametrize("form", ["numbers", "flattened"])
def test_odd_names_are_refused(names, error, message, form):
    with pytest.raises(error, match=rf"^For 'convert_checkpoint', the argument 'names' must .*{message}"):
        convert_checkpoint(state_dict_of(form=form), ADAMW, names=names)


def places(value, path=()):
    """Yields the path to each item in nested dicts and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, (dict, list, tuple)):
            yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    items = value.items() if isinstance(value, dict) else enumerate(value)
    pairs = [(key, replaced(item, path[1:], new) if key == path[0] else item) for key, item in items]
    return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]


# The conversion does not read these, or accepts 1 for them.
FREE = {"lr", "eps", "weight_decay", "foreach", "capturable", "differentiable", "fused"}
ODD = [
    None,
    True,
    -1,
    2.5,
    float("nan"),
    2**31,
    10**400,
    "7",
    b"7",
    [],
    {},
    (),
    [[]],
    {"a": 1},
    1j,
    np.zeros(2),
    object(),
]
ODD += [
    TorchTensor(np.nan),
    TorchTensor([1, 2]),
    TorchTensor([], "complex64"),
    TorchTensor([1], "int8"),
    Tensor([3, 4]),
]


@pytest.mark.parametrize("form", ["numbers", "param_names", "names", "flattened"])
def test_odd_values_are_refused_in_words(form):
    """Each item of a state_dict is replaced by each odd value."""
    state_dict = state_dict_of(form=form)
    names = NAMES if form == "numbers" else None
    cases = [
        (path, odd)
        for path, odd in itertools.product(places(state_dict), ODD)
        if (str(path[-1]).rpartition(".")[2] if form == "flattened" else path[-1]) not in FREE
    ]
    assert len(cases) > 300
    for path, odd in cases:
        has_no_gradient = path[0] == "state" and len(path) == 2 and isinstance(odd, dict) and not odd
        is_flag = str(path[-1]).endswith("decoupled_weight_decay") and odd is True
        if not (has_no_gradient or is_flag or ("param_names" in path[:-1] and isinstance(odd, str))):
            with pytest.raises((TypeError, ValueError), match=r"^For 'convert_checkpoint', the argument '"):
                convert_checkpoint(replaced(state_dict, path, odd), ADAMW, names=names)
