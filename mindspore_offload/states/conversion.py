# SPDX-License-Identifier: Apache-2.0

"""Converts checkpoints of optimizers whose states have other names."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype


@dataclass(frozen=True)
class _Source:
    """The names of an optimizer's states.

    Attributes:
        moment1, moment2: The prefixes of the moments.
        steps: The name of the step count.
        first: The step count before the first step.
        corrects_bias: False if the optimizer lacks the bias correction.
    """

    moment1: str
    moment2: str
    steps: str
    first: int = 0
    corrects_bias: bool = True


_TORCH = "torch.optim.AdamW"
_SOURCES = {
    "mindformers.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "mindcv.AdamW": _Source("adam_m", "adam_v", "global_step"),
    "nn.AdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "FusedCastAdamWeightDecay": _Source("adam_m", "adam_v", "global_step", corrects_bias=False),
    "mint.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step", first=-1),
    "experimental.optim.AdamW": _Source("exp_avg", "exp_avg_sq", "state_step"),
    _TORCH: _Source("exp_avg", "exp_avg_sq", "state_step"),
}


def convert_checkpoint(
    checkpoint: dict[str, Any],
    source: str,
    beta1: float = 0.9,
    beta2: float = 0.999,
    names: Optional[Sequence[str]] = None,
) -> dict[str, Parameter]:
    """Converts a checkpoint of another AdamW into one that `AdamWOffload` loads.

    The moments are the same in all of them; their names differ. Moments of 16 bits become float32. The powers of the
    betas are computed from the number of steps, unless the checkpoint has them.

    Args:
        checkpoint (dict): A checkpoint, as `mindspore.load_checkpoint` returns it, or the `state_dict()` of a
            `torch.optim.AdamW`. It is not changed.
        source (str): The optimizer that it is from: ``"mindformers.AdamW"``, ``"mindcv.AdamW"``,
            ``"nn.AdamWeightDecay"``, ``"FusedCastAdamWeightDecay"`` (MindFormers 1.0 to 1.3), ``"mint.optim.AdamW"``,
            ``"experimental.optim.AdamW"`` or ``"torch.optim.AdamW"``.
        beta1 (float): The decay rate of the first moment with which the checkpoint was trained, between 0 and 1. Not
            used if the checkpoint has the power, as those of MindCV and PyTorch. Default: ``0.9`` .
        beta2 (float): The decay rate of the second moment, likewise. Default: ``0.999`` .
        names (Optional[Sequence[str]]): For PyTorch, the names of the parameters in MindSpore, in the order of the
            `state_dict`. Default: ``None`` , the names in the `state_dict`, which has them if the optimizer was made
            from `named_parameters()`.

    Returns:
        dict[str, Parameter], for `mindspore.load_param_into_net`.

    Raises:
        TypeError: If `checkpoint` is not a dict.
        ValueError: If `source` is unknown, if `checkpoint` has no states of that optimizer, if its number of steps is
            not one whole number of at least 0, if it was trained with AMSGrad, or if `beta1` or `beta2` is not between
            0 and 1.
        ValueError: If `names` is not as long as the parameters of the state_dict, or is None while that has no names.

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
        raise TypeError(
            f"For 'convert_checkpoint', the argument 'checkpoint' must be a dict, but got {checkpoint!r:.60} of type "
            f"{type(checkpoint).__name__}; give it what mindspore.load_checkpoint returns, or a state_dict of PyTorch."
        )
    if source not in _SOURCES:
        raise ValueError(
            f"For 'convert_checkpoint', the argument 'source' must be one of {sorted(_SOURCES)}, but got {source!r}; "
            f"checkpoints of nn.Adam and nn.AdamOffload load as they are."
        )
    if source == _TORCH:
        checkpoint, beta1, beta2 = _from_torch(checkpoint, names)
    return _renamed(checkpoint, source, beta1, beta2)


def _from_torch(
    state_dict: dict[str, Any], names: Optional[Sequence[str]]
) -> tuple[dict[str, Parameter], float, float]:
    """Returns a state_dict as a flat checkpoint with the names of `_SOURCES`, and its betas."""
    if not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(
            f"For 'convert_checkpoint', the argument 'checkpoint' must hold 'state' and 'param_groups', but got "
            f"{sorted(state_dict)[:5]}; give it the state_dict() of the optimizer, not that of the net."
        )
    groups = state_dict["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    if names is None:
        names = [name for group in groups for name in group.get("param_names", ())]
    if len(names) != len(keys):
        raise ValueError(
            f"For 'convert_checkpoint', the argument 'names' must have the names of the {len(keys)} parameters in the "
            f"state_dict, in their order, but got {len(names)}; give it [p.name for p in optimizer.parameters]."
        )
    betas = {tuple(map(float, group["betas"])) for group in groups}
    steps = {float(state["step"]) for state in state_dict["state"].values()}
    if len(betas) != 1 or len(steps) != 1:
        raise ValueError(
            f"For 'convert_checkpoint', all parameters in the argument 'checkpoint' must have the same betas and the "
            f"same number of steps, but got the betas {sorted(betas)} and the steps {sorted(steps)}; AdamWOffload has "
            f"one of each."
        )
    flat = {"state_step": Parameter(Tensor([steps.pop()], mstype.float32), name="state_step")}
    for key, name in zip(keys, names):
        for kind, value in state_dict["state"].get(key, {}).items():  # none of a parameter that got no gradient
            if kind != "step":
                array = value.detach().cpu().float().numpy()
                flat[f"{kind}.{name}"] = Parameter(Tensor(array), name=f"{kind}.{name}")
    beta1, beta2 = betas.pop()
    return flat, beta1, beta2


def _renamed(checkpoint: dict[str, Parameter], source: str, beta1: float, beta2: float) -> dict[str, Parameter]:
    """Returns a checkpoint with the names of `AdamWOffload`, and with powers of the betas."""
    states = _SOURCES[source]
    prefixes = {states.moment1: "moment1", states.moment2: "moment2"}
    if states.steps not in checkpoint or not any(name.split(".")[0] in prefixes for name in checkpoint):
        raise ValueError(
            f"For 'convert_checkpoint', the argument 'checkpoint' must hold '{states.steps}' and states named "
            f"'{states.moment1}.<parameter>' and '{states.moment2}.<parameter>', but got {sorted(checkpoint)[:5]} and "
            f"others; give it the checkpoint of an optimizer {source}, not of a net alone."
        )
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 < beta < 1:
            raise ValueError(
                f"For 'convert_checkpoint', the argument '{name}' must be between 0 and 1, but got {beta!r}; "
                f"give the one with which the checkpoint was trained."
            )
    steps = _step_count(states, checkpoint[states.steps])
    if not states.corrects_bias:
        warnings.warn(
            f"{source} does not correct the bias of its moments, and AdamWOffload does: the first steps after loading "
            f"this checkpoint may be larger or smaller than those that {source} would have taken.",
            UserWarning,
            stacklevel=3,
        )
    converted = {}
    for name, parameter in checkpoint.items():
        prefix, _, rest = name.partition(".")
        if prefix in prefixes:
            name = f"{prefixes[prefix]}.{rest}"
            parameter = Parameter(parameter.value().astype(mstype.float32), name=name)
        if prefix == "max_exp_avg_sq":
            _check_unused(parameter)
        elif name != states.steps:
            converted[name] = parameter
    converted["global_step"] = Parameter(Tensor([steps], mstype.int32), name="global_step")
    for name, beta in (("beta1_power", beta1), ("beta2_power", beta2)):
        if name not in converted:
            power = np.array([float(np.float32(beta)) ** steps], np.float32)
            converted[name] = Parameter(Tensor(power), name=name)
    return converted


def _check_unused(parameter: Parameter) -> None:
    """Refuses the third state of AMSGrad. `experimental.optim.AdamW` always has it, without AMSGrad as zeros."""
    if parameter.asnumpy().any():
        raise ValueError(
            f"For 'convert_checkpoint', the argument 'checkpoint' must be of an optimizer without AMSGrad, but got "
            f"'{parameter.name}'; AdamWOffload has no AMSGrad, load the weights alone."
        )


def _step_count(states: _Source, saved: Parameter) -> int:
    values = saved.asnumpy().astype(np.float64) - states.first
    if values.size != 1 or not values.item().is_integer() or values.item() < 0:
        raise ValueError(
            f"For 'convert_checkpoint', '{states.steps}' in the argument 'checkpoint' must be one whole number of at "
            f"least {states.first}, but got {saved.asnumpy().tolist()!r:.60}; the checkpoint is damaged or of another "
            f"optimizer."
        )
    return int(values.item())
