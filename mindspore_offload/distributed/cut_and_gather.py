# SPDX-License-Identifier: Apache-2.0

"""Cuts and gathers, on the device, the tensors of which each rank updates a piece. Whole tensors stay as they are.

MindSpore's AllGather on the CPU knows no bfloat16, nor do its Reshape and Slice. There it goes by way of float32, which
is exact.
"""

from mindspore import bfloat16, context, float32, nn, ops

from mindspore_offload import host


class Cut(nn.Cell):
    """Cuts this rank's piece of a tensor in the shape of a parameter.

    Args:
        piece (Union[Piece, None]): The piece. None: the tensor stays whole.
    """

    def __init__(self, piece):
        super().__init__(auto_prefix=False)
        self.is_piece = piece is not None
        if not self.is_piece:
            return
        self.begin, self.size, self.padding = piece.begin, piece.size, piece.padding
        self.concat, self.slice, self.zeros = ops.Concat(), ops.Slice(), ops.Zeros()
        self.is_cpu = context.get_context("device_target") == "CPU"

    def construct(self, tensor):
        if not self.is_piece:
            return tensor
        dtype = ops.dtype(tensor)
        if self.is_cpu and dtype == bfloat16:
            tensor = ops.cast(tensor, float32)
        tensor = ops.reshape(tensor, (-1,))
        if self.padding:
            tensor = self.concat((tensor, self.zeros((self.padding,), ops.dtype(tensor))))
        return ops.cast(self.slice(tensor, (self.begin,), (self.size,)), dtype)


def gather_of(slots):
    """Returns MindSpore's AllGather, for what each rank has computed of its pieces; None if the states are whole."""
    return ops.AllGather() if any(each.piece is not None for each in slots) else None


class Gather(nn.Cell):
    """Makes whole tensors of the pieces that all ranks have, with one AllGather.

    Messages have no tag, so every rank must launch all collectives in the same order. It does: the write of what is
    gathered and the update of the next bucket have side effects, so they keep the order of the program.

    Args:
        slots (Sequence[ParameterStates]): The parameters of a bucket. They have one dtype and pieces, or no pieces.
    """

    def __init__(self, slots):
        super().__init__(auto_prefix=False)
        self.is_sharded = slots[0].piece is not None
        if not self.is_sharded:
            return
        sizes = [each.piece.size for each in slots]
        widens = slots[0].parameter.dtype == bfloat16 and context.get_context("device_target") == "CPU"
        self.travels_as = float32 if widens else slots[0].parameter.dtype
        self.gather, self.concat = ops.AllGather(), ops.Concat()
        self.shape = (slots[0].piece.ranks, sum(sizes))
        self.takes = nn.CellList([_Take(each, sum(sizes[:i])) for i, each in enumerate(slots)], auto_prefix=False)

    def construct(self, pieces):
        if not self.is_sharded:
            return pieces
        gathered = self.gather(ops.cast(self.concat(pieces), self.travels_as))
        return host.map_(ops.partial(_take, ops.reshape(gathered, self.shape)), self.takes)


class _Take(nn.Cell):
    """Takes one parameter out of what all ranks have sent."""

    def __init__(self, slot, offset):
        super().__init__(auto_prefix=False)
        piece = slot.piece
        self.begin, self.size = (0, offset), (piece.ranks, piece.size)
        self.padding, self.whole = piece.padding, (piece.whole,)
        self.shape, self.dtype = tuple(slot.parameter.shape), slot.parameter.dtype
        self.slice = ops.Slice()

    def construct(self, gathered):
        values = ops.reshape(self.slice(gathered, self.begin, self.size), (-1,))
        if self.padding:
            values = self.slice(values, (0,), self.whole)
        return ops.cast(ops.reshape(values, self.shape), self.dtype)


def _take(gathered, take):
    return take(gathered)
