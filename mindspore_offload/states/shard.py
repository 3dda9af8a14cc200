# SPDX-License-Identifier: Apache-2.0

"""States that ranks share: the one that tells their checkpoints apart, and no broadcast."""

import traceback

import numpy as np
from mindspore import Parameter

from mindspore_offload.distributed import pieces
from mindspore_offload.errors import refuse
from mindspore_offload.states.loading import HALF_LOADED
from mindspore_offload.states.state import State, new_state


def shard_state(world):
    """Returns the state that has the rank and the number of ranks. `world` is a `World`."""
    return new_state(pieces.STATE, np.array(world, np.int32), _Shard)


class _Shard(State):
    """Loading must bring the same rank and number of ranks.

    It also refuses `remove_redundancy`. MindSpore then takes all parameters of a Cell for equal on all ranks, and would
    save each piece on one rank only, that is, lose all others but one.
    """

    @property
    def name(self):
        name = super().name
        if any(frame.f_code.co_name == "get_parameter_redundancy" for frame, _ in traceback.walk_stack(None)):
            cure = (
                "set it in CheckpointConfig, as MindSpore would save the pieces of one rank only, and lose all others"
            )
            refuse(ValueError, name, "argument 'remove_redundancy'", "be False", True, cure)
        return name

    @name.setter
    def name(self, name):
        Parameter.name.fset(self, name)

    def set_data(self, data, slice_shape=False):
        found, own = (np.ravel(each).tolist() for each in (data.asnumpy(), self.memory))
        if found != own:
            must, got = (f"be that of rank {own[0]} of {own[1]}", f"that of rank {found[0]} of {found[-1]}")
            cure = f"load its own file, or that which 'python -m mindspore_offload merge' makes of all. {HALF_LOADED}"
            refuse(ValueError, self.name, "checkpoint", must, got, cure)
        return self


def exclude_from_broadcast(optimizer):
    """Keeps `parameter_broadcast` away from the states of an optimizer: a rank's pieces are its own.

    Nor are those broadcast that all ranks have. If another rank has loaded another checkpoint, they tell it.
    """
    for parameter in optimizer.get_parameters():
        if isinstance(parameter, State):
            parameter.layerwise_parallel = True
