# SPDX-License-Identifier: Apache-2.0

"""Reads the `state_dict` of an Adam or AdamW of PyTorch, in any of its forms.

====================================  ==============================  ===============================
made by                               keys of the states              names of the parameters
====================================  ==============================  ===============================
``optimizer.state_dict()``            numbers                         none
the same, from `named_parameters()`   numbers                         ``param_names`` of the groups
``get_optimizer_state_dict``          names                           the keys
the same, flattened                   ``state.<name>.exp_avg``        part of the keys
====================================  ==============================  ===============================
"""

import re
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor

from mindspore_offload.checkpoints import conversion_checks as checks

ADAM, ADAMW = "torch.optim.Adam", "torch.optim.AdamW"
_STATES = {"step", "exp_avg", "exp_avg_sq"}
_PATH = re.compile(r"(state|param_groups)\..+\..+", re.DOTALL)  # a key of a flattened state_dict
_WHOLE = "call get_optimizer_state_dict with StateDictOptions(full_state_dict=True, cpu_offload=True)"

# The advice if a group has another value. Old releases of PyTorch save no `decoupled_weight_decay` and no `maximize`.
# DeepSpeed saves a `bias_correction`. Only Adam and AdamW have `amsgrad`, in every release.
_ADVICE = {
    "amsgrad": "AMSGrad is not supported, load the weights alone",
    "maximize": "these moments are of the negated gradients, load the weights alone",
    "bias_correction": "without bias correction it is another algorithm, load the weights alone",
}


def read(
    state_dict: dict[str, Any], source: str, names: Optional[Sequence[str]]
) -> tuple[dict[str, Parameter], dict[str, Parameter], int, tuple[float, float]]:
    """Returns both moments of each parameter by its name, the number of steps, and the betas."""
    state_dict = _nested(state_dict)
    states, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(groups, (list, tuple)) or not isinstance(states, dict):
        got = f"a {type(states).__name__} and a {type(groups).__name__}"
        advice = "give it the state_dict() of the optimizer"
        checks.refuse("checkpoint", "hold a dict 'state' and a list 'param_groups'", got, advice, TypeError)
    betas = {_checked_betas(group, source) for group in groups}
    keys = [key for group in groups for key in group["params"]]
    names = _checked_names(names, keys, groups)
    steps = _checked_steps(states, keys)
    if len(betas) != 1 or len(steps) != 1:
        checks.refuse(
            "checkpoint",
            "have the same betas and the same number of steps for all parameters",
            f"the betas {sorted(betas)} and the steps {sorted(steps)}",
            "this optimizer has one of each, load the weights alone",
        )
    trained = [(key, name) for key, name in zip(keys, names) if states.get(key)]  # others got no gradient
    moments1 = {name: _moment("moment1", name, states[key]["exp_avg"]) for key, name in trained}
    moments2 = {name: _moment("moment2", name, states[key]["exp_avg_sq"]) for key, name in trained}
    return moments1, moments2, steps.pop(), betas.pop()


def _nested(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Returns a state_dict with 'state' and 'param_groups'. In a flattened one, each parameter has its own group."""
    if {"state", "param_groups"} <= state_dict.keys():
        return state_dict
    paths = [path for path in state_dict if isinstance(path, str) and _PATH.fullmatch(path)]
    if not paths or len(paths) != len(state_dict):
        checks.refuse(
            "checkpoint",
            "hold 'state' and 'param_groups', or keys that begin with them",
            f"{list(state_dict)[:5]}",
            "give it the state_dict() of the optimizer, not that of the net",
        )
    states: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    for path, value in state_dict.items():
        kind, name = path.split(".", 1)
        name, key = name.rsplit(".", 1)
        if kind == "state":
            states.setdefault(name, {})[key] = value
        elif key != "param_names":  # those of the whole group
            groups.setdefault(name, {"params": [name]})[key] = value
    return {"state": states, "param_groups": list(groups.values())}


def _checked_betas(group: Any, source: str) -> tuple[float, float]:
    """Returns the betas of a group. Refuses a group of another algorithm."""
    keys = list(group) if isinstance(group, dict) else checks.described(group)
    if not isinstance(group, dict) or not {"params", "betas", "amsgrad"} <= group.keys():
        expected = f"be of a {source}, whose groups have 'params', 'betas' and 'amsgrad'"
        advice = "other optimizers, as RAdam, NAdam and Adamax, cannot be converted, load the weights alone"
        checks.refuse("checkpoint", expected, f"a group with {keys}", advice)
    other = ADAM if source == ADAMW else ADAMW
    flags = {"amsgrad": False, "maximize": False, "bias_correction": True, "decoupled_weight_decay": source == ADAMW}
    for flag, value in flags.items():
        if group.get(flag, value) is not value:
            advice = _ADVICE.get(flag, f"it is of a {other}, give source='{other}'")
            checks.refuse("checkpoint", f"have {flag}={value} in each group", repr(group[flag]), advice)
    for key in ("params", "param_names"):
        if not isinstance(group.get(key, []), (list, tuple)):
            got = checks.described(group[key])
            checks.refuse("checkpoint", f"have a list '{key}' in each group", got, checks.DAMAGED, TypeError)
    betas = group["betas"]
    is_pair = isinstance(betas, (list, tuple)) and len(betas) == 2
    beta1, beta2 = map(checks.number, betas) if is_pair else (None, None)
    if beta1 is None or beta2 is None or not (checks.is_decay_rate(beta1) and checks.is_decay_rate(beta2)):
        advice = "this optimizer needs such betas, load the weights alone"
        checks.refuse("checkpoint", "have two betas between 0 and 1 in each group", f"{betas!r:.60}", advice)
    return beta1, beta2


def _checked_names(names: Optional[Sequence[str]], keys: list[Any], groups: Sequence[Any]) -> Sequence[str]:
    """Returns `names`, or else the names in the state_dict, one for each key."""
    odd = [key for key in keys if isinstance(key, bool) or not isinstance(key, (int, str))]
    if odd or len(set(keys)) != len(keys):
        got = checks.described(odd[0]) if odd else f"the same number or name twice in {keys[:5]}"
        advice = "give it the state_dict() of the optimizer"
        checks.refuse("checkpoint", "have a number or a name for each parameter in 'params'", got, advice)
    if names is not None:
        checks.names_of_parameters("names", names)
    else:
        has_names = all(isinstance(key, str) for key in keys)
        names = keys if has_names else [name for group in groups for name in group.get("param_names", ())]
        checks.names_of_parameters("checkpoint", names)
    if len(names) != len(keys):
        expected = f"have the names of the {len(keys)} parameters in the state_dict, in their order"
        checks.refuse("names", expected, f"{len(names)}", "give it [p.name for p in optimizer.parameters]")
    return names


def _checked_steps(states: dict[Any, Any], keys: list[Any]) -> set[int]:
    """Returns the different numbers of steps. Refuses states that are not those of an Adam."""
    known = set(keys)
    unknown = [key for key in states if key not in known]
    if unknown:
        got = f"states of {unknown[:5]} and the groups of {keys[:5]}"
        checks.refuse("checkpoint", "have each parameter with a state in a group", got, checks.DAMAGED)
    for key, state in states.items():
        if not isinstance(state, dict) or (state and state.keys() != _STATES):
            got = f"{list(state)} for {key!r}" if isinstance(state, dict) else checks.described(state)
            advice = "it is of another optimizer, load the weights alone"
            checks.refuse("checkpoint", f"have the states {sorted(_STATES)} for each parameter", got, advice)
    steps = {checks.step_count("step", state["step"]) for state in states.values() if state}
    if not steps:
        advice = "an optimizer that made no step needs no checkpoint, load the weights alone"
        checks.refuse("checkpoint", "have the states of at least one parameter", "none", advice)
    return steps


def _moment(kind: str, name: str, value: Any) -> Parameter:
    """Returns a moment of PyTorch as a Parameter of float32."""
    reason, array = "", None
    if hasattr(value, "full_tensor") or "float" not in str(getattr(value, "dtype", "float")):
        reason = f", with the dtype {value.dtype}"
    else:
        try:
            array = value.detach().cpu().float().numpy()
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            reason = f", {error!r:.60}"
    if not isinstance(array, np.ndarray):
        expected, got = f"hold a whole, dense tensor of floats as {kind} of '{name}'", type(value).__name__
        checks.refuse("checkpoint", expected, f"a {got}{reason}", f"if it is sharded, {_WHOLE}", TypeError)
    return Parameter(Tensor(array), name=f"{kind}.{name}")
