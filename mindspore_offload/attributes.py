# SPDX-License-Identifier: Apache-2.0

"""Guards the attributes of an optimizer: against parameters of the same name, and against late assignments."""

import numpy as np
from mindspore import Parameter, Tensor, float32, nn

from mindspore_offload.errors import refuse
from mindspore_offload.mindspore_private import hold, own_parameters

# Attributes that the step holds: an assignment would not reach it.
_ARGUMENTS = ("beta1", "beta2", "eps", "loss_scale", "use_nesterov", "writeback", "offload_ratio")
_STATES = ("moment1", "moment2", "master", "global_step", "beta1_power", "beta2_power", "global_norm", "skipped_steps")
HELD = (*_ARGUMENTS, *_STATES)

# Methods that the steps of MindSpore's optimizers call, and a subclass may override, with what to do here.
NOT_CALLED = {
    "get_lr": "pass a LearningRateSchedule as learning_rate",
    "get_weight_decay": "pass a Cell as weight_decay",
}
_OF_GRADIENTS = ("decay_weight", "scale_grad", "gradients_centralization", "flatten_gradients")
NOT_CALLED |= dict.fromkeys(_OF_GRADIENTS, "change the gradients in construct")


class GuardedAttributes(nn.Optimizer):
    """An optimizer whose attributes mean what they say.

    MindSpore makes the parameters of a ParameterTuple attributes of the Cell that holds it, by their names. In
    `nn.Optimizer`, the attribute `eps` then silently overwrites a net's parameter `eps`. Here such parameters wait
    until all attributes are known, and `finish_attributes` inserts or refuses them.

    `nn.Optimizer` also accepts assignments that its compiled step never sees. Here they take effect, or raise.
    """

    _is_finished = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, cure in NOT_CALLED.items():
            if getattr(cls, name, None) is not getattr(nn.Optimizer, name, None):
                must = "be that of nn.Optimizer, because no step calls it"
                refuse(TypeError, cls.__name__, f"method '{name}'", must, "another one", cure)

    def insert_param_to_cell(self, param_name, param, check_name_contain_dot=True):
        is_of_tuple = not check_name_contain_dot  # MindSpore does not check the names of a tuple's elements
        if is_of_tuple and not self._is_finished:  # it waits in its place, under a key that is no name
            own_parameters(self)[id(param)] = param
        else:
            super().insert_param_to_cell(param_name, param, check_name_contain_dot)

    def finish_attributes(self):
        """Gives the waiting parameters their names.

        Raises:
            ValueError: If one has the name of an attribute or of a state.
        """
        of_net = {id(parameter) for parameter in self.parameters}
        inserted, named = own_parameters(self), {}
        for key, parameter in inserted.items():
            name = key if isinstance(key, str) else parameter.name
            is_hidden = key in of_net and hasattr(self, name)
            if is_hidden or named.setdefault(name, parameter) is not parameter:
                cure = f"rename it, for example to 'net.{name}'"
                must = "not have the name of an attribute or a state of the optimizer"
                refuse(ValueError, self.cls_name, f"parameter '{name}'", must, cure=cure)
        inserted.clear()
        inserted.update(named)
        self._is_finished = True

    def __setattr__(self, name, value):
        if not self._is_finished:
            super().__setattr__(name, value)
        elif name == "learning_rate":
            self._set_learning_rate(value)
        elif name in HELD or (name == "weight_decay" and self._step.check_gradients.has_run):
            must = "not be assigned to, because the compiled step holds it"
            cure = "write a state by set_data, else make a new optimizer and a new training cell, and load the states"
            refuse(AttributeError, self.cls_name, f"attribute '{name}'", must, cure=cure)
        else:
            super().__setattr__(name, value)
            if name == "weight_decay":
                hold(self._step, weight_decay=value)

    def _set_learning_rate(self, value):
        """Gives the Parameter `learning_rate` a new value, which the next step reads."""
        if not isinstance(self.learning_rate, Parameter):
            must = "not be assigned to, because it is a schedule or that of groups"
            cure = "assign to its elements by set_data, or make a new optimizer"
            refuse(AttributeError, self.cls_name, "attribute 'learning_rate'", must, cure=cure)
        number = np.asarray(value, np.float32)
        if number.size != 1 or not number >= 0:
            refuse(ValueError, self.cls_name, "attribute 'learning_rate'", "be one number, at least 0", value)
        self.learning_rate.set_data(Tensor(number.reshape(self.learning_rate.shape), float32))
