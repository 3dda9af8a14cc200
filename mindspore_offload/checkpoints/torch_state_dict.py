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
from mindspore import Tensor

from mindspore_offload.checkpoints import conversion_checks as checks

ADAM, ADAMW = "torch.optim.Adam", "torch.optim.AdamW"
_STATES = {"step", "exp_avg", "exp_avg_sq"}
_PATH = re.compile(r"(state|param_groups)\.(.+)\.([^.]+)", re.DOTALL)  # a key of a flattened state_dict
_ITS_OWN = "give it the state_dict() of the optimizer"
_WHOLE = "call get_optimizer_state_dict with StateDictOptions(full_state_dict=True, cpu_offload=True)"
NO_AMSGRAD = f"AMSGrad is not supported, {checks.ALONE}"

# The advice if a group has another value. Old releases of PyTorch save no `decoupled_weight_decay` and no `maximize`.
# DeepSpeed saves a `bias_correction`. Only Adam and AdamW have `amsgrad`, in every release.
_CURES = {
    "amsgrad": NO_AMSGRAD,
    "maximize": f"these moments are of the negated gradients, {checks.ALONE}",
    "bias_correction": f"without bias correction it is another algorithm, {checks.ALONE}",
}


def read(state_dict: dict[str, Any], source: str, names: Optional[Sequence[str]]) -> checks.Found:
    """Reads a `state_dict`. Its parameters get these names, or those that it has."""
    state_dict = _nested(state_dict)
    states, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(groups, (list, tuple)) or not isinstance(states, dict):
        got = f"a {type(states).__name__} and a {type(groups).__name__}"
        checks.refuse("hold a dict 'state' and a list 'param_groups'", got, _ITS_OWN, TypeError)
    betas = {_betas(group, source) for group in groups}
    keys = [key for group in groups for key in group["params"]]
    names = _names(names, keys, groups)
    steps = _steps(states, keys)
    if len(betas) != 1 or len(steps) != 1:
        must = "have the same betas and the same number of steps for all parameters"
        got = f"the betas {sorted(betas)} and the steps {sorted(steps)}"
        checks.refuse(must, got, f"this optimizer has one of each, {checks.ALONE}")
    trained = [(name, states[key]) for key, name in zip(keys, names) if states.get(key)]  # others got no gradient
    moments = {
        kind: {name: _moment(f"{kind} of '{name}'", state[key]) for name, state in trained}
        for kind, key in (("moment1", "exp_avg"), ("moment2", "exp_avg_sq"))
    }
    return checks.Found(moments, steps.pop(), betas.pop(), {})


def _nested(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Returns a state_dict with 'state' and 'param_groups'. In a flattened one, each parameter has its own group."""
    if {"state", "param_groups"} <= state_dict.keys():
        return state_dict
    paths = [_PATH.fullmatch(path) if isinstance(path, str) else None for path in state_dict]
    states: dict[str, dict[str, Any]] = {}
    groups: dict[str, dict[str, Any]] = {}
    for path, value in zip(paths, state_dict.values()):
        if path is None:
            must = "hold 'state' and 'param_groups', or keys that begin with them"
            checks.refuse(must, list(state_dict)[:5], f"{_ITS_OWN}, not that of the net")
        kind, name, key = path.groups()
        if kind == "state":
            states.setdefault(name, {})[key] = value
        elif key != "param_names":  # those of the whole group
            groups.setdefault(name, {"params": [name]})[key] = value
    return {"state": states, "param_groups": list(groups.values())}


def _betas(group: Any, source: str) -> tuple[float, float]:
    """Returns the betas of a group. Refuses a group of another algorithm."""
    if not isinstance(group, dict) or not {"params", "betas", "amsgrad"} <= group.keys():
        got = f"a group with {list(group) if isinstance(group, dict) else checks.typed(group)}"
        cure = f"other optimizers, as RAdam, NAdam and Adamax, cannot be converted, {checks.ALONE}"
        checks.refuse(f"be of a {source}, whose groups have 'params', 'betas' and 'amsgrad'", got, cure)
    other = ADAM if source == ADAMW else ADAMW
    flags = {"amsgrad": False, "maximize": False, "bias_correction": True, "decoupled_weight_decay": source == ADAMW}
    for flag, value in flags.items():
        if group.get(flag, value) is not value:
            cure = _CURES.get(flag, f"it is of a {other}, give source='{other}'")
            checks.refuse(f"have {flag}={value} in each group", repr(group[flag]), cure)
    for key in ("params", "param_names"):
        if not isinstance(group.get(key, []), (list, tuple)):
            checks.refuse(f"have a list '{key}' in each group", checks.typed(group[key]), error=TypeError)
    betas = group["betas"]
    rates = [checks.number(beta) for beta in betas] if isinstance(betas, (list, tuple)) else []
    if len(rates) != 2 or not all(map(checks.is_decay_rate, rates)):
        cure = f"this optimizer needs such betas, {checks.ALONE}"
        checks.refuse("have two betas between 0 and 1 in each group", f"{betas!r:.60}", cure)
    return rates[0], rates[1]


def _names(names: Optional[Sequence[str]], keys: list[Any], groups: Sequence[Any]) -> Sequence[str]:
    """Returns `names`, or else the names in the state_dict, one for each key."""
    odd = [key for key in keys if isinstance(key, bool) or not isinstance(key, (int, str))]
    if odd or len(set(keys)) != len(keys):
        got = checks.typed(odd[0]) if odd else f"the same number or name twice in {keys[:5]}"
        checks.refuse("have a number or a name for each parameter in 'params'", got, _ITS_OWN)
    argument = "names" if names is not None else "checkpoint"
    if names is None:
        has_names = all(isinstance(key, str) for key in keys)
        names = keys if has_names else [name for group in groups for name in group.get("param_names", ())]
    checks.check_names(names, argument)
    if len(names) != len(keys):
        must = f"have the names of the {len(keys)} parameters in the state_dict, in their order"
        checks.refuse(must, len(names), "give it [p.name for p in optimizer.parameters]", argument="names")
    return names


def _steps(states: dict[Any, Any], keys: list[Any]) -> set[int]:
    """Returns the different numbers of steps. Refuses states that are not those of an Adam."""
    known = set(keys)
    unknown = [key for key in states if key not in known]
    if unknown:
        got = f"states of {unknown[:5]} and the groups of {keys[:5]}"
        checks.refuse("have each parameter with a state in a group", got)
    for key, state in states.items():
        if not isinstance(state, dict) or (state and state.keys() != _STATES):
            got = f"{list(state) if isinstance(state, dict) else checks.typed(state)} for {key!r}"
            checks.refuse(f"have the states {sorted(_STATES)} for each parameter", got, checks.OF_OTHER)
    steps = {checks.step_count("step", state["step"]) for state in states.values() if state}
    if not steps:
        cure = f"an optimizer that made no step needs no checkpoint, {checks.ALONE}"
        checks.refuse("have the states of at least one parameter", "none", cure)
    return steps


def _moment(name: str, value: Any) -> Tensor:
    """Returns a moment of PyTorch in float32."""
    try:
        is_whole = not hasattr(value, "full_tensor") and "float" in str(getattr(value, "dtype", "float"))
        array = value.detach().cpu().float().numpy() if is_whole else None
        reason = f"with the dtype {value.dtype}"
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        array, reason = None, f"{error!r:.60}"
    if not isinstance(array, np.ndarray):
        got, cure = f"a {type(value).__name__}, {reason}", f"if it is sharded, {_WHOLE}"
        checks.refuse(f"hold a whole, dense tensor of floats as {name}", got, cure, TypeError)
    return Tensor(array)
