# SPDX-License-Identifier: Apache-2.0

"""Refuses a step that is not the same on all ranks of a sharded training, before anything is written."""

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import functional as F

from mindspore_offload import host
from mindspore_offload.abi import COLUMNS
from mindspore_offload.distributed.cut_and_gather import Cut
from mindspore_offload.distributed.pieces import Piece
from mindspore_offload.native_operation import NativeOperation

# The parameters, evenly spread, and the first elements of each that the ranks compare in every step, with those of
# their gradients. Other weights and other data differ in nearly all elements.
SAMPLED, ELEMENTS = 4, 8


def comparison():
    """Returns the operation that compares what all ranks bring to a step."""
    operation = NativeOperation("SameStep", (1,), mstype.float32)
    operation.add_prim_attr("side_effect_mem", True)  # so it runs before all writes that follow
    return operation


class SameStep(nn.Cell):
    """Gathers and compares the numbers, settings, weights and gradients with which the ranks begin a step.

    It finds ranks that loaded checkpoints of different steps or trainings, ranks whose schedules differ, and gradients
    that nobody has reduced. One small AllGather in each step finds all of them, whenever they begin to differ. Every
    rank gets the same values, so all refuse the step.

    Args:
        parameters (Sequence[Parameter]): The optimizer's parameters.
        rows (int): The rows of the coefficient tensor.
    """

    def __init__(self, parameters, rows):
        super().__init__(auto_prefix=False)
        last = len(parameters) - 1
        self.sampled = tuple(sorted({i * last // (SAMPLED - 1) for i in range(SAMPLED)}))
        sizes = [min(ELEMENTS, parameters[i].size) for i in self.sampled]
        self.firsts = nn.CellList([Cut(Piece(0, 1, size, size)) for size in sizes], auto_prefix=False)
        # Not by setattr, which would make the parameters attributes of this Cell by their names.
        object.__setattr__(self, "weights", ParameterTuple(parameters[i] for i in self.sampled))
        settings = 2 + rows * len(COLUMNS)
        self.sections = Tensor(np.array([1, settings, sum(sizes), sum(sizes)], np.int32))
        self.concat, self.gather = ops.Concat(), ops.AllGather()
        self.check = comparison()

    def construct(self, global_step, powers, coefficients, gradients):
        """Returns the coefficients, so that whatever needs them waits for the comparison."""
        on_host = host.concat((host.cast(global_step, mstype.float32), *powers, host.reshape(coefficients, (-1,))))
        weights = host.map_(_first_of, self.firsts, self.weights)
        samples = host.map_(_first_of, self.firsts, host.map_(F.partial(host.pick, gradients), self.sampled))
        values = self.concat((on_host, *weights, *samples))
        # All gradients are reduced, by collectives of the user's, before ours begin.
        gathered = self.gather(F.depend(values, gradients))
        return F.depend(coefficients, self.check(gathered, self.sections))


def _first_of(first, tensor):
    return F.cast(first(tensor), mstype.float32)
