# SPDX-License-Identifier: Apache-2.0

"""A state of the optimizer: a Parameter that keeps its own memory."""

import functools

import numpy as np
from mindspore import Parameter, Tensor, context
from mindspore.common.initializer import initializer

from mindspore_offload import formats, mindspore_private
from mindspore_offload.errors import warn
from mindspore_offload.states.loading import Form, Loadable


class State:
    """Mixed into the class of a Parameter. Loading copies into the state's memory; a Parameter would exchange it.

    The state's huge pages and its place beside the other states then survive a resume, and a compiled step goes on with
    what was loaded.

    Attributes:
        memory (numpy.ndarray): What MindSpore and the kernel see.
        form (Form): The form of the state, and of what it loads.
        was_loaded (bool): True from the loading of a checkpoint until `notice_foreign` warns of it.
        is_on_device (bool): True if the device updates it.
        take_slice (Optional[Callable]): Returns memory of a shape if MindSpore cuts the state.
    """

    was_loaded = is_on_device = False
    take_slice = None

    @property
    def data(self):
        """A tensor that shares the state's memory, and whose shape and dtype equal those that a checkpoint may bring.

        MindSpore's loader compares these, and its writer reads the values. A Parameter would return itself.
        """
        loadable = Tensor(self)
        loadable.__class__ = Loadable
        loadable.form = self.form
        return loadable

    def set_data(self, data, slice_shape=False):
        """Copies a tensor, of a shape and dtype that the state loads, into the state's memory.

        With `slice_shape`, the state becomes the tensor, which may have another shape.
        """
        if not isinstance(data, Tensor):
            data = Tensor(data, self.form.dtype)
        if data.has_init:
            data = data.init_data()
        if slice_shape and self.take_slice is not None:
            return self._become_slice(data.astype(self.form.dtype).asnumpy())
        loaded = self.form.converted(self.name, data)
        memory = self.memory.reshape(-1)
        memory[len(loaded) :] = 0
        np.copyto(memory[: len(loaded)], loaded)
        if self.is_on_device and context.get_context("device_target") != "CPU":
            # The device has a copy, which the next step would read. New memory takes its place.
            self.memory = self.memory.copy()
            Tensor.assign_value(self, Tensor.from_numpy(self.memory))
        self.sliced, self.was_loaded = slice_shape, True
        return self

    def _become_slice(self, values):
        """Exchanges the memory, also for a slice of the same size: copying zeros into the old one would touch it."""
        self.memory = self.take_slice(values.shape)
        self.form = self.form._replace(whole=values.shape)
        if values.reshape(-1).view(np.uint8).any():  # else leave its pages without memory
            np.copyto(self.memory, values)
        super().assign_value(Tensor.from_numpy(self.memory))
        self.sliced = True
        return self

    def assign_value(self, value):
        """Does the same as `set_data`."""
        return self.set_data(value)


def new_state(name, array, kind=State):
    """Returns the state of this name whose memory is `array`. Its class is a subclass of `kind`."""
    # from_numpy shares the array's memory. The constructor of Parameter would copy it, and so touch every page.
    tensor = Tensor.from_numpy(array)
    state = Parameter(initializer("zeros", tensor.shape, tensor.dtype), name=name)
    state.set_data(tensor)
    # `Parameter.__new__` picks the class, so the subclass is set afterwards.
    state.__class__ = _class_of(kind, type(state))
    state.memory, state.form = array, Form(tensor.dtype, tensor.shape)
    return state


@functools.cache
def _class_of(kind, base):
    return type(Parameter.__name__, (kind, base), {})


def clone_of(parameter, prefix, array, piece, slices, is_on_device):
    """Returns the state ``<prefix>.<name of parameter>`` whose memory is `array`, as a clone of the parameter.

    With a `Piece` it is this piece of the state. From `slices` it takes memory if MindSpore cuts it. If it
    `is_on_device`, the device updates it.

    In MindSpore's sense: it has the parameter's settings, and the parameter lists it. Semi-automatic parallel slices
    exactly the clones of a parameter as it slices the parameter.
    """
    state = new_state(f"{prefix}.{parameter.name}", array)
    mindspore_private.clone_info(state, parameter)
    moment = prefix if prefix in formats.MOMENT_NAMES else None
    state.form = Form(state.form.dtype, tuple(parameter.shape), piece, moment)
    state.is_on_device, state.take_slice = is_on_device, slices and functools.partial(slices.take, prefix)
    return state


def notice_foreign(cls_name, global_step, beta1_power, moment1):
    """Warns of a checkpoint of another optimizer: its number of steps loads, but its moments have other names.

    Args:
        cls_name (str): The optimizer's class.
        global_step, beta1_power (State): The states that count the steps.
        moment1 (Sequence[State]): The first moments. They are searched for a number that is not zero, which with a
            checkpoint of ours is the first one.
    """
    steps = int(global_step.asnumpy()[0])
    was_loaded = global_step.was_loaded or beta1_power.was_loaded
    if not was_loaded or (steps == 0 and beta1_power.asnumpy()[0] == 1):
        return
    if not any(moment.memory.reshape(-1).view(np.uint8).any() for moment in moment1):
        global_step.was_loaded = beta1_power.was_loaded = False  # warn once
        warn(
            f"For '{cls_name}', the moments are zero, although global_step is {steps}: if a checkpoint was "
            f"loaded, its moments have other names; convert it with mindspore_offload.convert_checkpoint."
        )
