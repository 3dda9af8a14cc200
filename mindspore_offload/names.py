"""Keeps the names of a net's parameters apart from the attributes and the states of an optimizer."""

from mindspore import nn


class NamesApart(nn.Optimizer):
    """An optimizer that refuses a parameter with the name of one of its attributes or states.

    MindSpore makes the parameters of a ParameterTuple attributes of the Cell that holds it, by their names. In
    `nn.Optimizer`, the attribute `eps` then silently overwrites a net's parameter `eps`. Here such parameters wait
    until all attributes are known, and `insert_parameters` inserts them.
    """

    def insert_param_to_cell(self, param_name, param, check_name_contain_dot=True):
        is_attribute = check_name_contain_dot  # MindSpore does not check the names of a tuple's elements
        if is_attribute:
            super().insert_param_to_cell(param_name, param)
        else:
            self.__dict__.setdefault("_waiting", []).append((len(self._params), param))

    def insert_parameters(self):
        """Inserts the waiting parameters in the places where MindSpore would have inserted them.

        Raises:
            ValueError: If one has the name of an attribute or of a state.
        """
        attributes, ordered, done = list(self._params.items()), {}, 0
        for position, parameter in self.__dict__.pop("_waiting"):
            ordered.update(attributes[done:position])
            done = position
            if ordered.get(parameter.name) is parameter:
                continue
            if parameter.name in ordered or hasattr(self, parameter.name):
                raise ValueError(
                    f"For '{self.cls_name}', the parameter '{parameter.name}' must not have the name of an attribute "
                    f"or a state of the optimizer; rename it, for example to 'net.{parameter.name}'."
                )
            ordered[parameter.name] = parameter
        ordered.update(attributes[done:])
        self._params.clear()
        self._params.update(ordered)
