# SPDX-License-Identifier: Apache-2.0

"""A state of the optimizer: a Parameter that keeps its own memory."""

import functools
import math
import sys

import numpy as np
from mindspore import Parameter, Tensor, context
from mindspore import dtype as mstype
from mindspore.common.initializer import initializer

from mindspore_offload import formats
from mindspore_offload.distributed import pieces
from mindspore_offload.states import codes


def new_state(name, array, kind=None):
    """Returns the state of this name whose memory is `array`. Its class has `kind`, or `_State`, as its base."""
    # from_numpy shares the array's memory. The constructor of Parameter would copy it, and so touch every page.
    tensor = Tensor.from_numpy(array)
    state = Parameter(initializer("zeros", tensor.shape, tensor.dtype), name=name)
    state.set_data(tensor)
    # `Parameter.__new__` picks the class, so the subclass is set afterwards.
    state.own_dtype = state.loadable_dtype = tensor.dtype
    state.__class__ = _class_of(kind or _State, type(state))
    state.memory, state.piece, state.own_shape, state.whole_shape = array, None, tensor.shape, tensor.shape
    state.moment = state.take_slice = None
    state.was_loaded = state.is_on_device = False
    return state


@functools.cache
def _class_of(kind, base):
    return type(Parameter.__name__, (kind, base), {})


def shard_state(world):
    """Returns the state that tells a rank's checkpoint from those of other ranks. `world` is a `World`."""
    return new_state(pieces.STATE, np.array(world, np.int32), _Shard)


def clone_of(parameter, prefix, array, piece=None, slices=None, is_on_device=False):
    """Returns the state ``<prefix>.<name of parameter>`` whose memory is `array`, as a clone of the parameter.

    With a `Piece` it is this piece of the state. A moment loads those of every format. From `slices` it takes memory if
    MindSpore cuts it. If it `is_on_device`, the device updates it.

    In MindSpore's sense: it has the parameter's settings, and the parameter lists it. Semi-automatic parallel slices
    exactly the clones of a parameter as it slices the parameter.
    """
    state = new_state(f"{prefix}.{parameter.name}", array)
    info, name = parameter.param_info.clone(), state.name
    info.obj = state
    state.param_info = info
    state.name = name
    state.requires_aggr = parameter.requires_aggr
    state.piece, state.whole_shape = piece, tuple(parameter.shape)
    state.own_shape = (piece.size,) if piece else state.whole_shape
    state.is_on_device = is_on_device
    state.take_slice = functools.partial(slices.take, prefix) if slices else None
    if prefix in formats.MOMENT_NAMES:
        state.moment = prefix
        state.loadable_dtype = _loadable_dtype(state.own_dtype)
    info = parameter.param_info
    info.cloned_obj = [*getattr(info, "cloned_obj", []), state]
    return state


def forget_clones(parameters, clones):
    """Removes states from the lists of their parameters, which would keep their memory as long as the net lives."""
    forgotten = {id(clone) for clone in clones}
    for parameter in parameters:
        info = parameter.param_info
        info.cloned_obj = [clone for clone in getattr(info, "cloned_obj", []) if id(clone) not in forgotten]


def exclude_from_broadcast(optimizer):
    """Keeps `parameter_broadcast` away from the states of an optimizer: a rank's pieces are its own.

    Nor are those broadcast that all ranks have. If another rank has loaded another checkpoint, they tell it.
    """
    for parameter in optimizer.get_parameters():
        if isinstance(parameter, _State):
            parameter.layerwise_parallel = True


@functools.cache
def _loadable_dtype(dtype):
    """Returns this dtype, which equals those of all formats of moments.

    `load_param_into_net` compares it with the dtype in the checkpoint. The state then converts to its own.
    """
    others = tuple(getattr(mstype, row.dtype) for row in formats.MOMENT_FORMATS.values())

    class LoadableDtype(type(dtype)):
        def __eq__(self, other):
            return other in others

        def __ne__(self, other):
            return not self == other

        __hash__ = type(dtype).__hash__

    return LoadableDtype(8 * Tensor(0, dtype).itemsize)


# MindSpore loads one parameter after the other, so a refusal comes too late for those before it.
_HALF_LOADED = "What was loaded before it is changed, so make the net and the optimizer anew before you train."


class _State:
    """Mixed into the class of a Parameter. Loading copies into the state's memory; a Parameter would exchange it.

    The state's huge pages and its place beside the other states then survive a resume, and a compiled step goes on with
    what was loaded.
    """

    @property
    def data(self):
        """A tensor that shares the state's memory, and whose shape and dtype equal those that a checkpoint may bring.

        MindSpore's loader compares these, and its writer reads the values. A Parameter would return itself.
        """
        loadable = Tensor(self)
        loadable.__class__ = _Loadable
        loadable.state = self
        return loadable

    def set_data(self, data, slice_shape=False):
        """Copies a tensor of the state's shape, or of shape () for (1,), into the state's memory.

        If the state is a piece, a tensor in the shape of the parameter gives it that piece. A moment is converted from
        any format to its own: decoded from codes, or rounded to nearest. With `slice_shape`, the state becomes the
        tensor, which may have another shape.
        """
        if not isinstance(data, Tensor):
            data = Tensor(data, self.own_dtype)
        if data.has_init:
            data = data.init_data()
        if slice_shape and self.take_slice is not None:
            return self._become_slice(data.astype(self.own_dtype).asnumpy())
        brings_codes = self.moment is not None and formats.moment_format(data.dtype) is formats.CODES
        own_shape, whole_shape = (_shape_of(shape, brings_codes) for shape in (self.own_shape, self.whole_shape))
        shape = tuple(data.shape)
        if shape not in (own_shape, whole_shape) and (own_shape, shape) != ((1,), ()):
            of_piece = f", or that of its piece, {own_shape}" if self.piece is not None else ""
            raise ValueError(
                f"For the state '{self.name}', the data must have its shape {whole_shape}{of_piece}, but "
                f"got {shape}; load the checkpoint of a net with the same parameters. Those of the ranks of a sharded "
                f"training must be merged before another number of ranks loads them: python -m mindspore_offload "
                f"merge. {_HALF_LOADED}"
            )
        part = slice(None)
        if self.piece is not None and shape == whole_shape:
            part = slice(self.piece.begin, self.piece.begin + self.piece.size)
        loaded = self._converted(data, brings_codes, part)
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
        self.own_shape = self.whole_shape = values.shape
        if values.reshape(-1).view(np.uint8).any():  # else leave its pages without memory
            np.copyto(self.memory, values)
        super().assign_value(Tensor.from_numpy(self.memory))
        self.sliced = True
        return self

    def _converted(self, data, brings_codes, part):
        """Returns what `data` brings for the state's memory, flat: a slice of its elements, in the state's format."""
        has_codes = self.moment is not None and formats.moment_format(self.own_dtype) is formats.CODES
        if not brings_codes:
            dtype = mstype.float32 if has_codes else self.own_dtype
            values = data.astype(dtype).asnumpy().reshape(-1)[part]
            return codes.encode(values, self.moment).reshape(-1) if has_codes else values
        blocks = data.asnumpy()
        if has_codes:
            block = formats.CODES.block  # the piece of a shard has whole blocks
            return blocks[slice(*(end and end // block for end in (part.start, part.stop)))].reshape(-1)
        size = math.prod(self.whole_shape if part.stop or self.piece is None else self.own_shape)
        values = codes.decode(blocks, self.moment)[:size][part]
        return Tensor(values).astype(self.own_dtype).asnumpy()

    def assign_value(self, value):
        """Does the same as `set_data`."""
        return self.set_data(value)


def _shape_of(shape, has_codes):
    return formats.CODES.shape(shape) if has_codes else shape


class _Loadable(Tensor):
    """A state as MindSpore's loader sees it. The state itself has its own shape and dtype, and no others."""

    @property
    def shape(self):
        return _LoadableShape(super().shape, self.state)

    @property
    def dtype(self):
        return self.state.loadable_dtype


class _Shard(_State):
    """The state that has the rank and the number of ranks. Loading must bring the same.

    It also refuses `remove_redundancy`. MindSpore then takes all parameters of a Cell for equal on all ranks, and would
    save each piece on one rank only, that is, lose all others but one.
    """

    @property
    def name(self):
        if _called_by("get_parameter_redundancy"):
            raise ValueError(
                f"For the state '{self.param_info.name}', remove_redundancy can't be True: MindSpore would save "
                f"the pieces of one rank only; set remove_redundancy=False in CheckpointConfig. The states of an "
                f"optimizer with shard_states=True have no redundancy."
            )
        return super().name

    @name.setter
    def name(self, name):
        Parameter.name.fset(self, name)

    def set_data(self, data, slice_shape=False):
        found, own = (np.ravel(each).tolist() for each in (data.asnumpy(), self.memory))
        if found != own:
            raise ValueError(
                f"For the state '{self.name}', the checkpoint must be that of rank {own[0]} of {own[1]}, but got that "
                f"of rank {found[0]} of {found[-1]}; load the file that this rank has saved, or let every rank load "
                f"the file that 'python -m mindspore_offload merge' makes of those of all ranks. {_HALF_LOADED}"
            )
        return self


def _called_by(function):
    """Returns True if a function of this name, or a comprehension in it, reads the property that asks."""
    frame = sys._getframe(2)
    return function in (frame.f_code.co_name, frame.f_back and frame.f_back.f_code.co_name)


class _LoadableShape(tuple):
    """A state's shape, which also equals other shapes that a checkpoint may bring: `load_param_into_net` compares them.

    The shape of one number equals (), because `nn.Adam` saves its powers so. The shape of a piece equals that of the
    whole state, and that of a moment those of all formats. A large state equals any flat one, and any blocks of codes:
    that may be a rank's piece, which `set_data` refuses in words that help.
    """

    def __new__(cls, shape, state):
        self = super().__new__(cls, shape)
        self.whole, self.is_moment = state.whole_shape, state.moment is not None
        return self

    def __eq__(self, other):
        if not isinstance(other, tuple):
            return False
        is_one = len(other) == 0 and tuple.__eq__(self, (1,))
        is_flat_or_codes = len(other) == 1 or (self.is_moment and other[1:] == (formats.BYTES_OF_BLOCK,))
        may_be_piece = is_flat_or_codes and math.prod(self.whole) >= pieces.MIN_SHARDED
        of_codes = self.is_moment and tuple.__eq__(formats.CODES.shape(self.whole), other)
        return tuple.__eq__(self, other) or tuple.__eq__(self.whole, other) or is_one or may_be_piece or of_codes

    def __ne__(self, other):
        return not self == other

    __hash__ = tuple.__hash__
