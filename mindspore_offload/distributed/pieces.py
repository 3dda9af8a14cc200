# SPDX-License-Identifier: Apache-2.0

"""Shards: with data parallelism, each rank holds and updates one piece of a parameter's states.

A state is flattened and cut in as many pieces of equal size as there are ranks. Rank r has piece r. The last pieces are
padded with zeros. MindSpore is not imported here: the commands need the arithmetic without it.
"""

from typing import NamedTuple

from mindspore_offload.abi import BLOCK

# Parameters with fewer elements stay whole on every rank: an operation more would cost more than they do.
MIN_SHARDED = 2**14

# The name of the state, int32 of shape (2,), that tells a rank's checkpoint from others: its rank, and their number.
STATE = "shard"


class Piece(NamedTuple):
    """One rank's piece of a parameter's states.

    Attributes:
        rank (int): The rank, which is the index of the piece.
        ranks (int): The number of ranks.
        size (int): The elements of each piece, with its padding.
        whole (int): The elements of the parameter.
    """

    rank: int
    ranks: int
    size: int
    whole: int

    @property
    def begin(self):
        """The index of the first element in the padded parameter."""
        return self.rank * self.size

    @property
    def padding(self):
        """The zeros behind the parameter's last element."""
        return self.ranks * self.size - self.whole


def piece_size(size, ranks):
    """Returns the elements of one piece of a parameter with `size` elements; 0 if it stays whole."""
    if ranks == 1 or size < MIN_SHARDED:
        return 0
    return -(-size // (ranks * BLOCK)) * BLOCK


def piece_of(size, rank, ranks):
    """Returns the `Piece` of a parameter with `size` elements that a rank has; None if it stays whole."""
    elements = piece_size(size, ranks)
    return Piece(rank, ranks, elements, size) if elements else None
