# SPDX-License-Identifier: Apache-2.0

"""Converts checkpoints of optimizers whose states have other names."""

from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from mindspore import Parameter, Tensor, float32, int32

from mindspore_offload.checkpoints import conversion_checks as checks
from mindspore_offload.checkpoints import torch_state_dict
from mindspore_offload.errors import typed, warn


class _Source(NamedTuple):
    """The names of an optimizer's states.

    Attributes:
        moment1, moment2: The prefixes of the moments.
        steps: The name of the step count.
        first: The step count before the first step.
        dtype: The dtype of the step count, where it tells optimizers with the same names apart.
        corrects_bias: False if the optimizer lacks the bias correction.
        moment: The function that reads a moment, as float32.
    """

    moment1: str
    moment2: str
    steps: str
    first: int = 0
    dtype: Any = None
    corrects_bias: bool = True
    moment: Callable[[str, Any], Tensor] = checks.moment


_SOURCES = {
    "mindformers.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "mindformers.FusedAdamW": _Source("exp_avg", "exp_avg_sq", "global_step", first=-1),
    "mindcv.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "nn.AdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "FusedCastAdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "mint.optim.Adam": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=float32),
    "mint.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step", first=-1, dtype=float32),
    "experimental.optim.Adam": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=int32),
    "experimental.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step", dtype=int32),
    torch_state_dict.ADAM: _Source("exp_avg", "exp_avg_sq", "step", moment=torch_state_dict.moment),
    torch_state_dict.ADAMW: _Source("exp_avg", "exp_avg_sq", "step", moment=torch_state_dict.moment),
}
_WANTED = "give it what mindspore.load_checkpoint returns, or a state_dict of PyTorch and its source"
_AMSGRAD = "max_exp_avg_sq"  # `experimental.optim.AdamW` always has it, without AMSGrad as zeros
# States of optimizers that also have an adam_m, and of those whose checkpoints load as they are.
_OF_OTHERS = ("muon_m", "pma_weight_ema", "pma_weight_sma", "moment1", "moment2")
_POWERS = ("beta1_power", "beta2_power")


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
    checks.check_type(checkpoint, dict, "be a dict", _WANTED)
    must, cure = f"be one of {sorted(_SOURCES)}", "checkpoints of nn.Adam and nn.AdamOffload load as they are"
    checks.check_type(source, str, must, cure, "source")
    if source not in _SOURCES:
        checks.refuse(must, repr(source), cure, argument="source")
    must, cure = "be a float between 0 and 1 in float32", "give the one with which the checkpoint was trained"
    betas = [checks.decay_rate(beta1, must, cure, "beta1"), checks.decay_rate(beta2, must, cure, "beta2")]
    if source in (torch_state_dict.ADAM, torch_state_dict.ADAMW):
        checkpoint, betas = torch_state_dict.flat(checkpoint, source, names)
    elif names is not None:
        cure = "these checkpoints have names, leave it out"
        checks.refuse(f"be None for {source}", typed(names), cure, argument="names")
    converted = _converted(checkpoint, source, betas)
    if not _SOURCES[source].corrects_bias:
        warn(
            f"{source} does not correct the bias of its moments, and AdamWOffload does: the first steps after loading "
            f"this checkpoint may be larger or smaller than those that {source} would have taken."
        )
    return converted


def _converted(checkpoint: dict[str, Any], source: str, betas: list[float]) -> dict[str, Any]:
    """Returns the moments, the number of steps and the powers of the betas. All other items stay as they are."""
    theirs = _SOURCES[source]
    kinds = {theirs.moment1: "moment1", theirs.moment2: "moment2"}
    moments: dict[str, dict[str, Tensor]] = {}
    steps, others = None, {}
    for name, value in checkpoint.items():
        checks.check_type(name, str, "have names as keys", _WANTED)
        prefix, _, parameter = name.partition(".")
        if prefix in kinds and parameter:
            moments.setdefault(parameter, {})[kinds[prefix]] = theirs.moment(name, value)
        elif name == theirs.steps:
            steps = checks.step_count(name, value, theirs.first, theirs.dtype)
        elif prefix == _AMSGRAD:
            if theirs.moment(name, value).asnumpy().any():
                checks.refuse("be of an optimizer without AMSGrad", f"'{name}'", torch_state_dict.NO_AMSGRAD)
        elif name == "global_step" or (prefix in _OF_OTHERS and parameter):
            cure = f"{checks.ALONE}, or the checkpoint as it is if it is of nn.Adam or of this package"
            checks.refuse(f"hold only states of {source}", f"'{name}', too", cure)
        else:
            others[name] = value
    if steps is None or not moments:
        must = f"hold '{theirs.steps}', '{theirs.moment1}.<parameter>' and '{theirs.moment2}.<parameter>'"
        cure = f"give it the checkpoint of an optimizer {source}, not of a net alone or before the first step"
        checks.refuse(must, sorted(checkpoint)[:5], cure)
    states = {}
    for parameter, pair in moments.items():
        shapes = {kind: moment.shape for kind, moment in pair.items()}
        if shapes.get("moment1") != shapes.get("moment2"):
            checks.refuse("hold two moments of one shape for each parameter", f"the shapes {shapes} for '{parameter}'")
        states.update({f"{kind}.{parameter}": moment for kind, moment in pair.items()})
    if not steps and not others.keys() >= {*_POWERS} and any(each.asnumpy().any() for each in states.values()):
        checks.refuse("count the steps of its moments, which are not zero", "0 steps")
    states["global_step"] = Tensor([steps], int32)
    for name, beta in zip(_POWERS, betas):
        if name not in others:
            states[name] = Tensor([float(np.float32(beta)) ** steps], float32)
        elif not 0 <= checks.number(others[name]) <= 1:
            checks.refuse(f"hold one number from 0 to 1 in '{name}'", typed(others[name]))
    return {**others, **{name: Parameter(value, name=name) for name, value in states.items()}}
