# SPDX-License-Identifier: Apache-2.0

"""A state of the optimizer: a Parameter that keeps its own memory."""

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype
from mindspore.common.initializer import initializer


def new_state(name, array):
    """Returns the state of this name whose memory is `array`."""
    # from_numpy shares the array's memory. The constructor of Parameter would copy it, and so touch every page.
    tensor = Tensor.from_numpy(array)
    state = Parameter(initializer("zeros", tensor.shape, tensor.dtype), name=name)
    state.set_data(tensor)
    # `Parameter.__new__` picks the class, so the subclass is set afterwards.
    state.own_dtype = state.loadable_dtype = tensor.dtype
    state.__class__ = type(Parameter.__name__, (_State, type(state)), {})
    state.memory = array
    return state


def clone_of(parameter, prefix, array):
    """Returns the state ``<prefix>.<name of parameter>`` whose memory is `array`, as a clone of the parameter.

    In MindSpore's sense: it has the parameter's settings, and the parameter lists it. Semi-automatic parallel slices
    exactly the clones of a parameter as it slices the parameter.
    """
    state = new_state(f"{prefix}.{parameter.name}", array)
    info, name = parameter.param_info.clone(), state.name
    info.obj = state
    state.param_info = info
    state.name = name
    state.requires_aggr = parameter.requires_aggr
    if prefix != "master":
        state.loadable_dtype = _either_dtype_of_moments(state.own_dtype)
    info = parameter.param_info
    info.cloned_obj = [*getattr(info, "cloned_obj", []), state]
    return state


_MOMENT_BITS = {mstype.float32: 32, mstype.bfloat16: 16}


def _either_dtype_of_moments(dtype):
    """Returns this dtype, which also equals the other one that moments may have.

    `load_param_into_net` compares a state's dtype with that in the checkpoint. The state then converts to its own.
    """

    class EitherDtype(type(dtype)):
        def __eq__(self, other):
            return other in _MOMENT_BITS

        def __ne__(self, other):
            return not self == other

        __hash__ = type(dtype).__hash__

    return EitherDtype(_MOMENT_BITS[dtype])


class _State:
    """Mixed into the class of a Parameter. Loading copies into the state's memory; a Parameter would exchange it.

    The state's huge pages and its place beside the other states then survive a resume, and a compiled step goes on with
    what was loaded.
    """

    @property
    def data(self):
        """The state itself: `load_param_into_net` asks this for the shape."""
        return self

    @property
    def shape(self):
        shape = super().shape
        return _ShapeOfOne(shape) if shape == (1,) else shape

    @property
    def dtype(self):
        return self.loadable_dtype

    def set_data(self, data, slice_shape=False):
        """Copies a tensor of the state's shape, or of shape () for (1,), into the state's memory."""
        if not isinstance(data, Tensor):
            data = Tensor(data, self.own_dtype)
        if data.has_init:
            data = data.init_data()
        if self.shape != tuple(data.shape):
            raise ValueError(
                f"For the state '{self.name}', the data must have its shape {tuple(self.shape)}, "
                f"but got {tuple(data.shape)}; load the checkpoint of a net with the same parameters."
            )
        np.copyto(self.memory, data.astype(self.own_dtype).asnumpy().reshape(self.memory.shape))
        self.sliced = slice_shape
        return self

    def assign_value(self, value):
        """Does the same as `set_data`."""
        return self.set_data(value)


class _ShapeOfOne(tuple):
    """(1,), which also equals (). `load_param_into_net` compares shapes, and `nn.Adam` saves its powers with ()."""

    __slots__ = ()

    def __eq__(self, other):
        return other in ((1,), ())

    def __ne__(self, other):
        return not self == other

    __hash__ = tuple.__hash__
