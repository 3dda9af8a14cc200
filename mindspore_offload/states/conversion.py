# SPDX-License-Identifier: Apache-2.0

"""Converts checkpoints of optimizers whose states have other names."""

import warnings

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

_NAMES = {"adam_m": "moment1", "adam_v": "moment2"}


def convert_adam_weight_decay(
    parameter_dict: dict[str, Parameter], beta1: float = 0.9, beta2: float = 0.999
) -> dict[str, Parameter]:
    """Converts a checkpoint of `mindspore.nn.AdamWeightDecay` into one that `AdamWOffload` loads.

    Both optimizers have the same moments, under different names. `nn.AdamWeightDecay` does not correct their bias, so
    it saves no powers of the betas. They are computed from `global_step`. If that is small, the first steps of
    `AdamWOffload` differ from those of `nn.AdamWeightDecay` by the bias correction.

    Args:
        parameter_dict (dict[str, Parameter]): A checkpoint, as `mindspore.load_checkpoint` returns it. It is not
            changed.
        beta1 (float): The decay rate of the first moment with which the checkpoint was trained, between 0 and 1.
            Default: ``0.9`` .
        beta2 (float): The decay rate of the second moment, likewise. Default: ``0.999`` .

    Returns:
        dict[str, Parameter], for `mindspore.load_param_into_net`.

    Raises:
        TypeError: If `parameter_dict` is not a dict.
        ValueError: If `parameter_dict` has no `global_step` or no state of `nn.AdamWeightDecay`, if its `global_step`
            is not one whole number of at least 0, or if `beta1` or `beta2` is not between 0 and 1.

    Examples:
        >>> import mindspore as ms
        >>> from mindspore import nn
        >>> from mindspore_offload import AdamWOffload, convert_adam_weight_decay
        >>>
        >>> net = nn.Dense(3, 2)
        >>> before = nn.AdamWeightDecay(net.trainable_params())
        >>> checkpoint = {parameter.name: parameter for parameter in before.get_parameters()}
        >>> optimizer = AdamWOffload(net.trainable_params())
        >>> ms.load_param_into_net(optimizer, convert_adam_weight_decay(checkpoint), strict_load=True)
        ([], [])
    """
    if not isinstance(parameter_dict, dict):
        raise TypeError(
            f"For 'convert_adam_weight_decay', the argument 'parameter_dict' must be a dict, "
            f"but got {parameter_dict!r:.60} of type {type(parameter_dict).__name__}; "
            f"give it what mindspore.load_checkpoint returns."
        )
    states = [name for name in parameter_dict if name.split(".")[0] in _NAMES]
    if not states or "global_step" not in parameter_dict:
        raise ValueError(
            f"For 'convert_adam_weight_decay', the argument 'parameter_dict' must hold 'global_step' and states named "
            f"'adam_m.<parameter>' and 'adam_v.<parameter>', but got {sorted(parameter_dict)[:5]} and others; give it "
            f"the checkpoint of an nn.AdamWeightDecay, not of a net alone. Those of nn.Adam load as they are."
        )
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 < beta < 1:
            raise ValueError(
                f"For 'convert_adam_weight_decay', the argument '{name}' must be between 0 and 1, but got {beta!r}; "
                f"give the one with which the checkpoint was trained."
            )
    steps = _step_count(parameter_dict["global_step"])
    warnings.warn(
        "nn.AdamWeightDecay does not correct the bias of its moments, and AdamWOffload does: the first steps after "
        "loading this checkpoint may be larger or smaller than those that nn.AdamWeightDecay would have taken.",
        UserWarning,
        stacklevel=2,
    )
    converted = {}
    for name, parameter in parameter_dict.items():
        prefix, _, rest = name.partition(".")
        if prefix in _NAMES:
            name = f"{_NAMES[prefix]}.{rest}"
            # nn.AdamWeightDecay keeps the moments of 16-bit parameters in 16 bits.
            parameter = Parameter(parameter.value().astype(mstype.float32), name=name)
        converted[name] = parameter
    for name, beta in (("beta1_power", beta1), ("beta2_power", beta2)):
        power = np.array([float(np.float32(beta)) ** steps], np.float32)
        converted[name] = Parameter(Tensor(power, mstype.float32), name=name)
    return converted


def _step_count(global_step: Parameter) -> int:
    values = global_step.asnumpy()
    if values.size != 1 or values.dtype.kind not in "iu" or values.item() < 0:
        raise ValueError(
            f"For 'convert_adam_weight_decay', 'global_step' in the argument 'parameter_dict' must be one whole number "
            f"of at least 0, but got {values.tolist()!r:.60}; the checkpoint is damaged or of another optimizer."
        )
    return values.item()
