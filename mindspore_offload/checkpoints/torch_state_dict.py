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

from collections.abc import Sequence
from typing import Any, Optional

from mindspore import Tensor

from mindspore_offload.checkpoints.conversion_checks import ALONE, check_type, decay_rate, refuse, step_count
from mindspore_offload.errors import typed

ADAM, ADAMW = "torch.optim.Adam", "torch.optim.AdamW"
_STATES = {"step", "exp_avg", "exp_avg_sq"}
_LISTS = (list, tuple)
_ITS_OWN = "give it the state_dict() of the optimizer"
_SHARDED = "if it is sharded, pass StateDictOptions(full_state_dict=True, cpu_offload=True) to get_optimizer_state_dict"
NO_AMSGRAD = f"AMSGrad is not supported, {ALONE}"

# The value of each flag, and the advice if a group has another one. Old releases of PyTorch save no `maximize` and no
# `decoupled_weight_decay`. DeepSpeed saves a `bias_correction`. Only Adam and AdamW have `amsgrad`, in every release.
_FLAGS = {
    "amsgrad": (False, NO_AMSGRAD),
    "maximize": (False, f"these moments are of the negated gradients, {ALONE}"),
    "bias_correction": (True, f"without bias correction it is another algorithm, {ALONE}"),
}


def flat(state_dict: dict[str, Any], source: str, names: Optional[Sequence[str]]) -> tuple[dict[str, Any], list[float]]:
    """Returns the states of a `state_dict`, named as in a checkpoint of MindSpore, and the betas.

    The parameters get the given names, or those in the `state_dict`.
    """
    states, groups = _states_and_groups(state_dict)
    betas = {_betas(group, source) for group in groups}
    keys = [key for group in groups for key in group["params"]]
    name_of = dict(zip(keys, _names(names, keys, groups)))
    found = {}
    for key, state in states.items():
        must = f"have the states {sorted(_STATES)} for the parameter {key!r}, and it in a group"
        check_type(state, dict, must)
        if key not in name_of or (state and state.keys() != _STATES):  # a parameter without gradients has none
            refuse(must, f"{list(state)}, and groups of {keys[:5]}")
        for kind, value in state.items():
            found["step" if kind == "step" else f"{kind}.{name_of[key]}"] = value
    steps = {step_count("step", state["step"]) for state in states.values() if state}
    if len(betas) != 1 or len(steps) > 1:
        must = "have the same betas and the same number of steps for all parameters"
        got = f"the betas {sorted(betas)} and the steps {sorted(steps)}"
        refuse(must, got, f"this optimizer has one of each, {ALONE}")
    return found, list(betas.pop())


def _states_and_groups(state_dict: dict[str, Any]) -> tuple[dict[Any, Any], Sequence[Any]]:
    """Returns 'state' and 'param_groups'. In a flattened state_dict, each parameter has its own group."""
    if {"state", "param_groups"} <= state_dict.keys():
        states, groups = state_dict["state"], state_dict["param_groups"]
        check_type(states, dict, "hold a dict 'state'", _ITS_OWN)
        check_type(groups, _LISTS, "hold a list 'param_groups'", _ITS_OWN)
        return states, groups
    nested: dict[str, dict[str, Any]] = {"state": {}, "param_groups": {}}
    for path, value in state_dict.items():
        kind, _, rest = str(path).partition(".")
        name, _, key = rest.rpartition(".")
        if kind not in nested or not (name and key):
            must = "hold 'state' and 'param_groups', or keys that begin with them"
            refuse(must, list(state_dict)[:5], f"{_ITS_OWN}, not that of the net")
        nested[kind].setdefault(name, {})[key] = value
    return nested["state"], [{"params": [name], **group} for name, group in nested["param_groups"].items()]


def _betas(group: Any, source: str) -> tuple[float, ...]:
    """Returns the betas of a group. Refuses a group of another algorithm."""
    check_type(group, dict, "hold a list of dicts in 'param_groups'", _ITS_OWN)
    if not {"params", "betas", "amsgrad"} <= group.keys():
        cure = f"other optimizers, as RAdam, NAdam and Adamax, cannot be converted, {ALONE}"
        must = f"be of a {source}, whose groups have 'params', 'betas' and 'amsgrad'"
        refuse(must, f"a group with {list(group)}", cure)
    other = ADAM if source == ADAMW else ADAMW
    decoupled = {"decoupled_weight_decay": (source == ADAMW, f"it is of a {other}, give source='{other}'")}
    for flag, (value, cure) in {**_FLAGS, **decoupled}.items():
        if group.get(flag, value) is not value:
            refuse(f"have {flag}={value} in each group", repr(group[flag]), cure)
    for key in ("params", "param_names", "betas"):
        check_type(group.get(key, []), _LISTS, f"have a list '{key}' in each group")
    must, cure = "have two betas between 0 and 1 in each group", f"this optimizer needs such betas, {ALONE}"
    betas = tuple(decay_rate(beta, must, cure) for beta in group["betas"])
    if len(betas) != 2:
        refuse(must, betas, cure)
    return betas


def _names(names: Optional[Sequence[str]], keys: list[Any], groups: Sequence[Any]) -> Sequence[str]:
    """Returns `names`, or else the names in the state_dict, one for each key."""
    odd = [key for key in keys if type(key) not in (int, str)]
    if odd or len(set(keys)) != len(keys):
        must = "have another number or name for each parameter in 'params'"
        refuse(must, typed(odd or keys), _ITS_OWN)
    if names is None:
        has_names = all(isinstance(key, str) for key in keys)
        names = keys if has_names else [name for group in groups for name in group.get("param_names", ())]
    must = f"have another name for each of the {len(keys)} parameters, in their order, as a list of str"
    cure = "give the names as [p.name for p in optimizer.parameters]"
    check_type(names, _LISTS, must, cure, "names")
    seen = {""}
    for index, name in enumerate(names):
        check_type(name, str, must, cure, "names")
        if name in seen:
            refuse(must, f"{name!r} again at index {index}", cure, argument="names")
        seen.add(name)
    if len(names) != len(keys):
        refuse(must, f"{len(names)} of them", cure, argument="names")
    return names


def moment(name: str, value: Any) -> Tensor:
    """Returns a moment of PyTorch in float32."""
    try:
        if hasattr(value, "full_tensor") or "float" not in str(value.dtype):
            raise TypeError(f"its dtype is {value.dtype}")
        return Tensor(value.detach().cpu().float().numpy())
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        got = f"a {type(value).__name__}, {error!r:.60}"
        refuse(f"hold a whole, dense tensor of floats as '{name}'", got, _SHARDED, TypeError)
