"""Checkpoints of optimizers whose states have other names."""

import warnings

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

_NAMES = {"adam_m": "moment1", "adam_v": "moment2"}


def convert_adam_weight_decay(parameter_dict, beta1=0.9, beta2=0.999):
    """A checkpoint of `mindspore.nn.AdamWeightDecay` in the form that `AdamWOffload` loads.

    The moments of both are the same, under other names. `nn.AdamWeightDecay` does not correct their bias, so it has no
    powers of the betas: they are computed from `global_step`, as if it had. Where it is small, the first steps after
    this differ from those that `nn.AdamWeightDecay` would take, by up to the missing correction.

    Args:
        parameter_dict (dict[str, Parameter]): What `mindspore.load_checkpoint` returns. It is left as it is.
        beta1 (float): That of the optimizer that is going to load it. Default: ``0.9`` .
        beta2 (float): Likewise. Default: ``0.999`` .

    Returns:
        dict[str, Parameter], for `mindspore.load_param_into_net`.

    Raises:
        TypeError: If `parameter_dict` is not a dict.
        ValueError: If there is no `global_step` in it, or no state of `nn.AdamWeightDecay`.

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
            # Those of 16-bit parameters are of 16 bits.
            parameter = Parameter(parameter.value().astype(mstype.float32), name=name)
        converted[name] = parameter
    steps = int(parameter_dict["global_step"].asnumpy().reshape(-1)[0])
    for name, beta in (("beta1_power", beta1), ("beta2_power", beta2)):
        power = np.array([float(np.float32(beta)) ** steps], np.float32)
        converted[name] = Parameter(Tensor(power, mstype.float32), name=name)
    return converted
