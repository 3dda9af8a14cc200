# SPDX-License-Identifier: Apache-2.0

"""Converts checkpoints of optimizers whose states have other names."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from mindspore_offload.checkpoints import conversion_checks as checks
from mindspore_offload.checkpoints import torch_state_dict


@dataclass(frozen=True)
class _Source:
    """The names of an optimizer's states.

    Attributes:
        moment1, moment2: The prefixes of the moments.
        steps: The name of the step count.
        first: The step count before the first step.
        dtype: The dtype of the step count, where it tells optimizers with the same names apart.
        corrects_bias: False if the optimizer lacks the bias correction.
    """

    moment1: str
    moment2: str
    steps: str
    first: int = 0
    dtype: Any = None
    corrects_bias: bool = True


_SOURCES = {
    "mindformers.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "mindformers.FusedAdamW": _Source("exp_avg", "exp_avg_sq", "global_step", first=-1),
    "mindcv.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "nn.AdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "FusedCastAdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "mint.optim.Adam": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=mstype.float32),
    "mint.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step", first=-1, dtype=mstype.float32),
    "experimental.optim.Adam": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=mstype.int32),
    "experimental.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=mstype.int32),
}
_TORCH = (torch_state_dict.ADAM, torch_state_dict.ADAMW)
_WANTED = "give it what mindspore.load_checkpoint returns, or a state_dict of PyTorch and its source"
_AMSGRAD = "max_exp_avg_sq"  # `experimental.optim.AdamW` always has it, without AMSGrad as zeros
_OF_OTHERS = ("muon_m", "pma_weight_ema", "pma_weight_sma")  # states of optimizers that also have an adam_m


def convert_checkpoint(
    checkpoint: dict[str, Any],
    source: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    names: Optional[Sequence[str]] = None,
) -> dict[str, Parameter]:
    """Converts a checkpoint of another Adam or AdamW into one that `AdamOffload` and `AdamWOffload` load.

    The moments are the same in all of them; their names differ. Moments of other dtypes become float32. The powers of
    the betas are computed from the number of steps, unless the checkpoint has them.

    Load the states of an AdamW into an `AdamWOffload`, those of an Adam into an `AdamOffload`. Without decay, both are
    the same algorithm, but for `eps`: the states of an Adam of PyTorch, `mint` or `experimental` go on exactly in an
    `AdamWOffload` with `weight_decay=0.0`.

    Args:
        checkpoint (dict): A checkpoint, as `mindspore.load_checkpoint` returns it, or a state_dict of an optimizer of
            PyTorch: what `state_dict()` or `torch.distributed.checkpoint.state_dict.get_optimizer_state_dict` returns,
            flattened or not. It is not changed.
        source (str): The optimizer that it is from: ``"mindformers.AdamW"``, ``"mindformers.FusedAdamW"``,
            ``"mindcv.AdamW"``, ``"nn.AdamWeightDecay"``, ``"FusedCastAdamWeightDecay"`` (MindFormers 1.0 to 1.3),
            ``"mint.optim.AdamW"``, ``"experimental.optim.AdamW"`` or ``"torch.optim.AdamW"``; or an Adam,
            ``"mint.optim.Adam"``, ``"experimental.optim.Adam"`` or ``"torch.optim.Adam"``.
        beta1 (float): The decay rate of the first moment with which the checkpoint was trained, between 0 and 1. Not
            used if the checkpoint has the power or the rate, as those of MindCV and PyTorch. Default: ``0.9`` .
        beta2 (float): The decay rate of the second moment, likewise. Default: ``0.999`` .
        names (Optional[Sequence[str]]): For PyTorch, the names of the parameters in MindSpore, in the order of the
            state_dict. Default: ``None`` , the names in the state_dict. It has them if it is of
            `get_optimizer_state_dict`, or if the optimizer was made from `named_parameters()`.

    Returns:
        dict[str, Parameter], for `mindspore.load_param_into_net`.

    Raises:
        TypeError: If `checkpoint` is not a dict with names as keys, if a state in it has the wrong type or dtype, or if
            `source` is not a str, `beta1` or `beta2` not a number, or `names` not a list of str.
        ValueError: If `source` is unknown, or if `beta1` or `beta2` is not between 0 and 1.
        ValueError: If `checkpoint` lacks states of that optimizer or has those of another one, if its number of steps
            is not one whole number that int32 holds, or if it was trained with AMSGrad or to maximize.
        ValueError: If `names` has a name twice, is not as long as the parameters of the state_dict, is None while that
            has no names, or is given although `source` is not of PyTorch.

    Examples:
        >>> import mindspore as ms
        >>> from mindspore import nn
        >>> from mindspore_offload import AdamWOffload, convert_checkpoint
        >>>
        >>> net = nn.Dense(3, 2)
        >>> before = nn.AdamWeightDecay(net.trainable_params())
        >>> checkpoint = {parameter.name: parameter for parameter in before.get_parameters()}
        >>> optimizer = AdamWOffload(net.trainable_params())
        >>> ms.load_param_into_net(optimizer, convert_checkpoint(checkpoint, "nn.AdamWeightDecay"), strict_load=True)
        ([], [])
    """
    if not isinstance(checkpoint, dict):
        checks.refuse("be a dict", checks.typed(checkpoint), _WANTED, TypeError)
    if not isinstance(source, str) or source not in (*_SOURCES, *_TORCH):
        error = ValueError if isinstance(source, str) else TypeError
        cure = "checkpoints of nn.Adam and nn.AdamOffload load as they are"
        checks.refuse(f"be one of {sorted((*_SOURCES, *_TORCH))}", f"{source!r:.60}", cure, error, "source")
    betas = checks.decay_rate("beta1", beta1), checks.decay_rate("beta2", beta2)
    if source in _SOURCES and names is not None:
        cure = "these checkpoints have names, leave it out"
        checks.refuse(f"be None for {source}", checks.typed(names), cure, argument="names")
    found = torch_state_dict.read(checkpoint, source, names) if source in _TORCH else _read(checkpoint, source, betas)
    checks.check_moments(found)
    if source in _SOURCES and not _SOURCES[source].corrects_bias:
        warnings.warn(
            f"{source} does not correct the bias of its moments, and AdamWOffload does: the first steps after loading "
            f"this checkpoint may be larger or smaller than those that {source} would have taken.",
            UserWarning,
            stacklevel=2,
        )
    states = {f"{kind}.{name}": value for kind, values in found.moments.items() for name, value in values.items()}
    states.update(_counters(found))
    return {**found.others, **{name: Parameter(value, name=name) for name, value in states.items()}}


def _read(checkpoint: dict[str, Any], source: str, betas: tuple[float, float]) -> checks.Found:
    """Reads a checkpoint of MindSpore, MindFormers or MindCV."""
    states = _SOURCES[source]
    kinds = {states.moment1: "moment1", states.moment2: "moment2"}
    moments: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds.values()}
    others = {}
    for name, value in checkpoint.items():
        if not isinstance(name, str):
            checks.refuse("have names as keys", checks.typed(name), _WANTED, TypeError)
        prefix, _, parameter = name.partition(".")
        if prefix in kinds and parameter:
            checks.check_tensor(name, value)
            moments[kinds[prefix]][parameter] = value.astype(mstype.float32)
        elif name != states.steps:
            _check_other(name, value, source)
            if prefix != _AMSGRAD:
                others[name] = value
    if states.steps not in checkpoint or not any(moments.values()):
        checks.refuse(
            f"hold '{states.steps}' and states named '{states.moment1}.<parameter>' and '{states.moment2}.<parameter>'",
            f"{sorted(checkpoint)[:5]} and others",
            f"give it the checkpoint of an optimizer {source}, not of a net alone",
        )
    steps = checkpoint[states.steps]
    if states.dtype is not None:
        checks.check_tensor(states.steps, steps, [states.dtype])
    return checks.Found(moments, checks.step_count(states.steps, steps, states.first), betas, others)


def _check_other(name: str, value: Any, source: str) -> None:
    """Refuses a state that `source` does not have."""
    prefix = name.partition(".")[0]
    if prefix == _AMSGRAD:
        checks.check_tensor(name, value)
        if value.asnumpy().any():
            checks.refuse("be of an optimizer without AMSGrad", f"'{name}'", torch_state_dict.NO_AMSGRAD)
    elif prefix in _OF_OTHERS:
        checks.refuse(f"be of {source}", f"the state '{name}'", checks.OF_OTHER)
    elif name == "global_step" or name.startswith(("moment1.", "moment2.")):
        cure = "give it one optimizer's states, those of nn.Adam and of this package load as they are"
        checks.refuse(f"hold only states of {source}", f"'{name}', too", cure)


def _counters(found: checks.Found) -> dict[str, Tensor]:
    """Returns the number of steps, and the powers of the betas that the checkpoint lacks."""
    counters = {"global_step": Tensor([found.steps], mstype.int32)}
    for name, beta in zip(("beta1_power", "beta2_power"), found.betas):
        if name in found.others:
            checks.check_power(name, found.others[name])
        else:
            counters[name] = Tensor(np.array([float(np.float32(beta)) ** found.steps], np.float32))
    return counters
