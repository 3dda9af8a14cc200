# SPDX-License-Identifier: Apache-2.0

"""The state that tells a rank's checkpoint from those of other ranks."""

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
                "MindSpore would save the pieces of one rank only; set remove_redundancy=False in CheckpointConfig. "
                "The states of an optimizer with shard_states=True have no redundancy"
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
            cure = (
                "load the file that this rank has saved, or let every rank load the file that 'python -m "
                f"mindspore_offload merge' makes of those of all ranks. {HALF_LOADED}"
            )
            refuse(ValueError, self.name, "checkpoint", must, got, cure)
        return self
