# SPDX-License-Identifier: Apache-2.0

"""The states of an optimizer: one parameter's tensors, the memory they lie in, and the buckets they are updated in."""

import zlib
from dataclasses import dataclass
from typing import Optional

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from mindspore_offload.shard import Piece, piece_of
from mindspore_offload.states import memory
from mindspore_offload.states.state import clone_of, forget_clones, new_state, shard_state

__all__ = ["ParameterStates", "allocate", "counter", "forget_clones", "keys_of", "shard_state"]


@dataclass(frozen=True)
class ParameterStates:
    """A parameter and what its update needs.

    Attributes:
        parameter (Parameter): The parameter, of dtype float32, float16 or bfloat16.
        moment1, moment2 (Parameter): Its moments, float32 or bfloat16; in its shape, or in that of the piece.
        master (Optional[Parameter]): The float32 master of a 16-bit parameter, likewise. None for float32.
        key (int): The key of its stochastic rounding, 32 bits. See `keys_of`.
        row (int): Its row of the coefficient tensor.
        has_decay (bool): True if that row has a weight decay.
        is_small (bool): True if it is updated on the device, where its states then are.
        piece (Optional[Piece]): The piece of it that this rank updates. None: all of it.
    """

    parameter: Parameter
    moment1: Parameter
    moment2: Parameter
    master: Optional[Parameter]
    key: int
    row: int
    has_decay: bool
    is_small: bool
    piece: Optional[Piece]

    @property
    def states(self):
        """The moments and the master."""
        return [state for state in (self.moment1, self.moment2, self.master) if state is not None]

    @property
    def weight(self):
        """The float32 weight that Adam updates: the master, or the parameter itself."""
        return self.parameter if self.master is None else self.master


def keys_of(names):
    """Returns a key for each name, without the parts before a dot that all names begin with.

    Cells put such prefixes before the names of their parameters. The random bits of a resumed training must not depend
    on whether that was before or after the optimizer was made.
    """
    parts, shared = [name.split(".") for name in names], 0
    while min(map(len, parts)) > shared + 1 and len({each[shared] for each in parts}) == 1:
        shared += 1
    return [zlib.crc32(".".join(each[shared:]).encode()) for each in parts]


def allocate(parameter, moment_dtype, ranks, key, row, has_decay, is_small):
    """Returns the `ParameterStates` of a parameter, with states of zeros that have no memory before the first step.

    They are named ``moment1.<name>``, ``moment2.<name>`` and, for a 16-bit parameter, ``master.<name>``. `ranks` are
    those that share them, a `Ranks`. The states of a small parameter are whole, and its moments float32.

    Masters start as zeros. The first step sees that a parameter is not its master rounded, takes it as changed from
    outside, and copies it into the master.
    """
    piece = None if is_small else piece_of(parameter.size, *ranks)
    dtypes = dict.fromkeys(("moment1", "moment2"), mstype.float32 if is_small else moment_dtype)
    if parameter.dtype != mstype.float32:
        dtypes["master"] = mstype.float32
    shape = (piece.size,) if piece else parameter.shape
    arrays = memory.zeros(shape, [Tensor(0, dtype).asnumpy().dtype for dtype in dtypes.values()])
    states = {prefix: clone_of(parameter, prefix, array, piece) for prefix, array in zip(dtypes, arrays)}
    moments = states["moment1"], states["moment2"]
    return ParameterStates(parameter, *moments, states.get("master"), key, row, has_decay, is_small, piece)


def counter(name, value, dtype):
    """Returns a state of shape (1,) with a single number."""
    return new_state(name, np.array([value], dtype))
