# SPDX-License-Identifier: Apache-2.0

"""The optimizer cell with decoupled weight decay."""

from collections.abc import Iterable
from typing import Any, Literal, Optional, Union

from mindspore import Parameter, Tensor, Type, float32, nn
from mindspore.nn.learning_rate_schedule import LearningRateSchedule

from mindspore_offload import checks
from mindspore_offload.adam import AdamOffload


class AdamWOffload(AdamOffload):
    r"""AdamW that keeps its moments in host memory and runs on the host CPU.

    Implements algorithm 2 of `Decoupled Weight Decay Regularization <https://arxiv.org/abs/1711.05101>`_, as in
    `torch.optim.AdamW` and `mindspore.mint.optim.AdamW`. In step :math:`t = 1, 2, \ldots`, for each weight:

    .. math::
        \begin{array}{l}
            g_t = g / S \\
            w'_t = w_{t-1} - \alpha \lambda w_{t-1} \\
            m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
            w_t = w'_t - \frac{\alpha}{1 - \beta_1^t} m_t / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)
        \end{array}

    The symbols, the states and their names, and everything else are as in :class:`mindspore_offload.AdamOffload`.

    Note:
        - The decay is decoupled: each step subtracts `learning_rate` * `weight_decay` * weight, whatever the gradient
          is. The L2 penalty of `AdamOffload` enters the moments.
        - :math:`\epsilon` is added to the root of the *corrected* :math:`v`, unlike in `AdamOffload`.
        - `mindspore.nn.AdamWeightDecay` is another algorithm, without bias correction. `convert_checkpoint`
          converts its checkpoints.

    Args:
        params (Union[list[Parameter], list[dict]]): As in `AdamOffload`.
        learning_rate (Union[float, int, Tensor, Iterable, LearningRateSchedule]): As in `AdamOffload`. Default:
            ``1e-3`` .
        beta1 (float): As in `AdamOffload`. Default: ``0.9`` .
        beta2 (float): As in `AdamOffload`. Default: ``0.999`` .
        eps (float): Added to the denominator; greater than 0. Default: ``1e-8`` .
        use_locking (bool): As in `AdamOffload`. Default: ``False`` .
        use_nesterov (bool): As in `AdamOffload`. Default: ``False`` .
        weight_decay (Union[float, int, Cell]): The decoupled decay, at least 0. A Cell is called with `global_step` in
            each step. Default: ``0.01`` .
        loss_scale (Union[float, Parameter]): As in `AdamOffload`. It does not affect the decay. Default: ``1.0`` .

    Keyword Args:
        host_kernel (str): As in `AdamOffload`. Default: ``"auto"`` .
        writeback (str): As in `AdamOffload`. Default: ``"auto"`` .
        max_grad_norm (Union[float, int, None]): As in `AdamOffload`. Default: ``None`` .
        skip_nonfinite (bool): As in `AdamOffload`. Default: ``False`` .
        min_offload_size (int): As in `AdamOffload`. Default: ``0`` .
        offload_ratio (float): As in `AdamOffload`. Default: ``1.0`` .
        moment_dtype (mindspore.dtype): As in `AdamOffload`. Default: ``mindspore.float32`` .
        shard_states (bool): As in `AdamOffload`. Default: ``False`` .

    Inputs:
        - **gradients** (tuple[Tensor]) - As in `AdamOffload`.

    Outputs:
        tuple[bool], ``True`` for each parameter.

    Raises:
        TypeError: As `AdamOffload`.
        ValueError: As `AdamOffload`.
        KeyError: As `AdamOffload`.
        AttributeError: As `AdamOffload`.
        NotImplementedError: As `AdamOffload`.
        RuntimeError: As `AdamOffload`.

    Supported Platforms:
        ``CPU``. It has not been run on a real ``GPU`` or ``Ascend`` yet; `placement_report` shows the placement there.

    Examples:
        >>> import mindspore as ms
        >>> from mindspore import nn
        >>> from mindspore_offload import AdamWOffload
        >>>
        >>> net = nn.Dense(3, 2)
        >>> groups = [{"params": [net.weight], "weight_decay": 0.1}, {"params": [net.bias], "weight_decay": 0.0}]
        >>> optimizer = AdamWOffload(groups, learning_rate=0.01, max_grad_norm=1.0)
        >>> model = ms.Model(net, nn.MSELoss(), optimizer)
    """

    _decoupled = True

    @checks.explains_keywords
    def __init__(
        self,
        params: Union[Iterable[Parameter], Iterable[dict[str, Any]]],
        learning_rate: Union[float, Tensor, Iterable[float], LearningRateSchedule] = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        use_locking: bool = False,
        use_nesterov: bool = False,
        weight_decay: Union[float, nn.Cell] = 0.01,
        loss_scale: Union[float, Parameter] = 1.0,
        *,
        host_kernel: Literal["auto", "native", "stock"] = "auto",
        writeback: Literal["auto", "in_place", "assign"] = "auto",
        max_grad_norm: Optional[float] = None,
        skip_nonfinite: bool = False,
        min_offload_size: int = 0,
        offload_ratio: float = 1.0,
        moment_dtype: Type = float32,
        shard_states: bool = False,
    ) -> None:
        given = dict(locals())
        del given["self"], given["__class__"]
        super().__init__(**given)
