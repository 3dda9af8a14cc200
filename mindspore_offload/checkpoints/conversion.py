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
_POWERS = {"beta1_power", "beta2_power"}
_WANTED = "give it what mindspore.load_checkpoint returns, or a state_dict of PyTorch and its source"
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
        checks.refuse("checkpoint", "be a dict", checks.described(checkpoint), _WANTED, TypeError)
    if not isinstance(source, str) or source not in (*_SOURCES, *_TORCH):
        expected = f"be one of {sorted((*_SOURCES, *_TORCH))}"
        advice = "checkpoints of nn.Adam and nn.AdamOffload load as they are"
        error = ValueError if isinstance(source, str) else TypeError
        checks.refuse("source", expected, f"{source!r:.60}", advice, error)
    betas = checks.decay_rate("beta1", beta1), checks.decay_rate("beta2", beta2)
    if source in _TORCH:
        moments1, moments2, steps, betas = torch_state_dict.read(checkpoint, source, names)
        others: dict[str, Any] = {}
    else:
        if names is not None:
            advice = "these checkpoints have names, leave it out"
            checks.refuse("names", f"be None for {source}", checks.described(names), advice)
        moments1, moments2, steps, others = _read(checkpoint, source)
    checks.moments(moments1, moments2, None if others.keys() >= _POWERS else steps)
    if source in _SOURCES and not _SOURCES[source].corrects_bias:
        warnings.warn(
            f"{source} does not correct the bias of its moments, and AdamWOffload does: the first steps after loading "
            f"this checkpoint may be larger or smaller than those that {source} would have taken.",
            UserWarning,
            stacklevel=2,
        )
    moments = [*moments1.values(), *moments2.values()]
    return {**others, **{moment.name: moment for moment in moments}, **_counters(steps, betas, others)}


def _read(
    checkpoint: dict[str, Any], source: str
) -> tuple[dict[str, Parameter], dict[str, Parameter], int, dict[str, Any]]:
    """Returns both moments of each parameter by its name, the number of steps, and the rest of a checkpoint."""
    states = _SOURCES[source]
    odd = next((name for name in checkpoint if not isinstance(name, str)), None)
    if odd is not None:
        checks.refuse("checkpoint", "have names as keys", checks.described(odd), _WANTED, TypeError)
    moments: dict[str, dict[str, Parameter]] = {states.moment1: {}, states.moment2: {}}
    others = {}
    for name, value in checkpoint.items():
        prefix, _, parameter = name.partition(".")
        if prefix in moments and parameter:
            new_name = f"{'moment1' if prefix == states.moment1 else 'moment2'}.{parameter}"
            value = checks.tensor(name, value).astype(mstype.float32)
            moments[prefix][parameter] = Parameter(value, name=new_name)
        elif prefix == "max_exp_avg_sq":
            _check_unused(name, value)
        elif prefix in _OF_OTHERS:
            advice = "it is of another optimizer, load the weights alone"
            checks.refuse("checkpoint", f"be of {source}", f"the state '{name}'", advice)
        elif name != states.steps:
            others[name] = value
    if states.steps not in checkpoint or not any(moments.values()):
        checks.refuse(
            "checkpoint",
            f"hold '{states.steps}' and states named '{states.moment1}.<parameter>' and '{states.moment2}.<parameter>'",
            f"{sorted(checkpoint)[:5]} and others",
            f"give it the checkpoint of an optimizer {source}, not of a net alone",
        )
    ours = [name for name in others if name == "global_step" or name.startswith(("moment1.", "moment2."))]
    if ours:
        advice = "give it one optimizer's states, those of nn.Adam and of this package load as they are"
        checks.refuse("checkpoint", f"hold only states of {source}", f"'{ours[0]}', too", advice)
    steps = checkpoint[states.steps]
    if states.dtype is not None:
        checks.tensor(states.steps, steps, [states.dtype])
    moments1, moments2 = moments.values()
    return moments1, moments2, checks.step_count(states.steps, steps, states.first), others


def _counters(steps: int, betas: tuple[float, float], others: dict[str, Any]) -> dict[str, Parameter]:
    """Returns the number of steps, and the powers of the betas that the checkpoint lacks."""
    counters = {"global_step": Parameter(Tensor([steps], mstype.int32), name="global_step")}
    for name, beta in zip(("beta1_power", "beta2_power"), betas):
        if name in others:
            checks.power(name, others[name])
        else:
            power = np.array([float(np.float32(beta)) ** steps], np.float32)
            counters[name] = Parameter(Tensor(power), name=name)
    return counters


def _check_unused(name: str, value: Any) -> None:
    """Refuses the third state of AMSGrad. `experimental.optim.AdamW` always has it, without AMSGrad as zeros."""
    if checks.tensor(name, value).asnumpy().any():
        advice = "AMSGrad is not supported, load the weights alone"
        checks.refuse("checkpoint", "be of an optimizer without AMSGrad", f"'{name}'", advice)
