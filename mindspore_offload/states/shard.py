# SPDX-License-Identifier: Apache-2.0

"""Shards: with data parallelism, each rank holds and updates one piece of a parameter's states.

A state is flattened and cut in as many pieces of equal size as there are ranks. Rank r has piece r. The last pieces are
padded with zeros. MindSpore is not imported here: the commands need the arithmetic without it.
"""

# Parameters with fewer elements stay whole on every rank: an operation more would cost more than they do.
MIN_SHARDED = 2**14

# A piece is a multiple of this. So a block of a gradient, the unit in which the global norm is summed, lies in one
# piece, and the sum has the same bits for any number of ranks.
BLOCK = 1024

# The name of the state, int32 of shape (2,), that tells a rank's checkpoint from others: its rank, and their number.
STATE = "shard"


def piece_size(size, ranks):
    """Returns the elements of one piece of a parameter with `size` elements; 0 if it stays whole."""
    if ranks == 1 or size < MIN_SHARDED:
        return 0
    return -(-size // (ranks * BLOCK)) * BLOCK
