# SPDX-License-Identifier: Apache-2.0

"""The states of an optimizer: one parameter's tensors, the memory they lie in, and the buckets they are updated in."""

import math
import zlib
from dataclasses import dataclass
from typing import Optional

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, float32

from mindspore_offload import formats
from mindspore_offload.distributed.pieces import Piece, piece_of
from mindspore_offload.states import memory
from mindspore_offload.states.state import clone_of, new_state


@dataclass(frozen=True)
class ParameterStates:
    """A parameter and what its update needs.

    Attributes:
        parameter (Parameter): The parameter, of dtype float32, float16 or bfloat16.
        key (int): The key of its stochastic rounding, 32 bits. See `keys_of`.
        row (int): Its row of the coefficient tensor.
        has_decay (bool): True if that row has a weight decay.
        is_on_device (bool): True if it is updated on the device, where its states then are.
        piece (Optional[Piece]): The piece of it that this rank updates. None: all of it.
        moment1, moment2 (Parameter): Its moments, or those of the piece, in a `MomentFormat`.
        master (Optional[Parameter]): The float32 master of a 16-bit parameter, of `shape`. None for float32.
    """

    parameter: Parameter
    key: int
    row: int
    has_decay: bool
    is_on_device: bool
    piece: Optional[Piece]
    moment1: Parameter
    moment2: Parameter
    master: Optional[Parameter] = None

    @property
    def states(self):
        """The moments and the master."""
        return [state for state in (self.moment1, self.moment2, self.master) if state is not None]

    @property
    def shape(self):
        """The shape of what this rank updates: the piece, or the parameter."""
        return (self.piece.size,) if self.piece else tuple(self.parameter.shape)

    @property
    def size(self):
        """The elements of what this rank updates."""
        return math.prod(self.shape)

    @property
    def weight(self):
        """The float32 weight that Adam updates: the master, or the parameter itself."""
        return self.parameter if self.master is None else self.master


def keys_of(names):
    """Returns a key for each name, without the parts before a dot that all names begin with.

    Cells put such prefixes before the names of their parameters. The random bits of a resumed training must not depend
    on whether that was before or after the optimizer was made.
    """
    parts = [name.split(".") for name in names]
    shared = max(count for count in range(min(map(len, parts))) if len({tuple(each[:count]) for each in parts}) == 1)
    return [zlib.crc32(".".join(each[shared:]).encode()) for each in parts]


def allocate(parameter, moment_dtype, world, key, row, has_decay, is_on_device):
    """Returns the `ParameterStates` of a parameter, with states of zeros that have no memory before the first step.

    They are named ``moment1.<name>``, ``moment2.<name>`` and, for a 16-bit parameter, ``master.<name>``. `world` has
    the ranks that share them. States on the device are whole, and their moments float32. So are the moments of a
    parameter that their format does not suit.

    Masters start as zeros. The first step sees that a parameter is not its master rounded, takes it as changed from
    outside, and copies it into the master.
    """
    piece = None if is_on_device else piece_of(parameter.size, *world)
    shape = (piece.size,) if piece else tuple(parameter.shape)
    moments = formats.EXACT if is_on_device else formats.format_for(moment_dtype, parameter.size, parameter.ndim)
    dtype = Tensor(0, getattr(mindspore, moments.name)).asnumpy().dtype
    kinds = dict.fromkeys(formats.MOMENT_NAMES, (moments.shape(shape), dtype))
    if parameter.dtype != float32:
        kinds["master"] = shape, np.dtype(np.float32)
    slices = None if piece or moments.has_codes else memory.Slices(kinds)
    arrays = memory.zeros(kinds).items()
    states = {name: clone_of(parameter, name, array, piece, slices, is_on_device) for name, array in arrays}
    return ParameterStates(parameter, key, row, has_decay, is_on_device, piece, **states)


def counter(name, value, dtype):
    """Returns a state of shape (1,) with a single number."""
    return new_state(name, np.array([value], dtype))
