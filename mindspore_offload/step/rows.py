# SPDX-License-Identifier: Apache-2.0

"""The rows of the coefficient tensor: parameters that share a learning rate and a weight decay share a row."""

from mindspore import Tensor, float32, nn, ops

from mindspore_offload import host


class Rows(nn.Cell):
    """Computes the learning rate and the weight decay of each row in a step.

    `nn.Optimizer.get_lr` and `get_weight_decay` call a schedule once a parameter. This calls it once a row.

    Args:
        optimizer (nn.Optimizer): The optimizer, after its own `__init__`.

    Attributes:
        count (int): The number of rows.
        of_parameter (tuple[int]): The row of each parameter.
        has_decay (tuple[bool]): True for each parameter that decays. A Cell may still return 0 for it in some step.
    """

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.is_group, self.is_group_lr = optimizer.is_group, optimizer.is_group_lr
        self.is_dynamic_lr = optimizer.dynamic_lr
        keys = [_key(optimizer, i) for i in range(len(optimizer.parameters))]
        first = {}  # the first parameter of each row
        for i, key in enumerate(keys):
            first.setdefault(key, i)
        row_of = {key: row for row, key in enumerate(first)}
        self.count = len(first)
        self.of_parameter = tuple(row_of[key] for key in keys)
        self.has_decay = tuple(has_decay for _, has_decay, _ in keys)

        # The index of each row's learning rate, and of its decay, in the tuples that `construct` builds.
        self.rate_index = tuple(first.values()) if self.is_group_lr else (0,) * self.count
        self.rate_is_dynamic = (self.is_group_lr and self.is_dynamic_lr,) * self.count
        dynamic = optimizer.dynamic_decay_flags if self.is_group else [optimizer.dynamic_weight_decay]
        is_dynamic, no_decay = (*dynamic, False), len(dynamic)
        self.no_decay = Tensor(0.0, float32)
        self.decay_index = tuple((i if self.is_group else 0) if self.has_decay[i] else no_decay for i in first.values())
        self.decay_is_dynamic = tuple(is_dynamic[i] for i in self.decay_index)

    def construct(self, global_step, learning_rate, weight_decay):
        """Returns two tuples of scalars, the learning rate and the weight decay of each row.

        Args:
            global_step (Parameter): The number of steps before this one: 0 in the first.
            learning_rate, weight_decay: The optimizer's attributes of these names.
        """
        if not self.is_group_lr:
            learning_rate = (learning_rate(global_step) if self.is_dynamic_lr else learning_rate,)
        # By a map, because MindSpore compiles `(rate,) * count` into a call inside a call for each row.
        rates = host.map_(ops.partial(_value, global_step, learning_rate), self.rate_index, self.rate_is_dynamic)
        decays = (*weight_decay, self.no_decay) if self.is_group else (weight_decay, self.no_decay)
        return rates, host.map_(ops.partial(_value, global_step, decays), self.decay_index, self.decay_is_dynamic)


def _key(optimizer, i):
    """Returns a key that is equal for parameters of the same row."""
    has_decay = optimizer.exec_weight_decay and optimizer.decay_flags[i]
    rate = id(optimizer.learning_rate[i]) if optimizer.is_group_lr else None
    decay = optimizer.group_weight_decay[i] if has_decay and optimizer.is_group else None
    return rate, has_decay, id(decay) if isinstance(decay, nn.Cell) else decay


def _value(global_step, values, i, is_dynamic):
    return values[i](global_step) if is_dynamic else values[i]
