# SPDX-License-Identifier: Apache-2.0

"""The loading of a state: which shapes and dtypes a checkpoint may bring, and how they become the state's own.

`load_param_into_net` compares the shape and dtype of a state's `data` with those in the checkpoint. Those of a
`Loadable` equal all that the state can convert.
"""

import functools
import math
from typing import NamedTuple, Optional

from mindspore import Tensor, float32

from mindspore_offload import formats
from mindspore_offload.distributed import pieces
from mindspore_offload.errors import refuse

# MindSpore loads one parameter after the other, so a refusal comes too late for those before it.
HALF_LOADED = "What was loaded before it is changed, so make the net and the optimizer anew before you train"


class Form(NamedTuple):
    """The form of a state.

    Attributes:
        dtype (mindspore.dtype): The dtype of its memory.
        whole (tuple): The shape of the whole state. That of the parameter, if there is one.
        piece (Optional[Piece]): The piece of the whole state that it is.
        moment (Optional[str]): "moment1" or "moment2". None for other states.
    """

    dtype: object
    whole: tuple
    piece: Optional[pieces.Piece] = None
    moment: Optional[str] = None

    @property
    def shape(self):
        """The shape of what the state holds, apart from the format of moments."""
        return (self.piece.size,) if self.piece else self.whole

    def format_of(self, dtype):
        """Returns the `MomentFormat` of an array of this dtype. All others are like float32: each element has one."""
        return (self.moment and formats.moment_format(dtype)) or formats.EXACT

    def may_load(self, shape):
        """Returns True for each shape that a tensor in some format may have.

        For a large state also for any flat shape, and any blocks of codes: that may be a rank's piece, which
        `converted` refuses in words that help.
        """
        if not isinstance(shape, tuple):
            return False
        possible = formats.MOMENT_FORMATS.values() if self.moment else [formats.EXACT]
        is_flat = len(shape) == 1 or any(each.has_codes and shape[1:] == (each.block_bytes,) for each in possible)
        may_be_piece = is_flat and math.prod(self.whole) >= pieces.MIN_SHARDED
        return may_be_piece or any(shape in self._shapes(each) for each in possible)

    def _shapes(self, moments):
        """Returns the shapes that a tensor in a format may have, first that of the state. `()` is as good as `(1,)`."""
        return [moments.shape(self.shape), moments.shape(self.whole), *([()] if self.shape == (1,) else [])]

    def converted(self, name, data):
        """Returns what a tensor brings for the memory of the state `name`, flat and without the padding at its end.

        A whole state brings the piece in it. A moment is converted from any format: decoded from codes, or rounded to
        nearest.
        """
        own, brought, shape = self.format_of(self.dtype), self.format_of(data.dtype), tuple(data.shape)
        if shape not in self._shapes(brought):
            of_piece = f", or that of its piece, {self.shape}" if self.piece else ""
            cure = (
                f"load the checkpoint of a net with the same parameters. Those of the ranks of a sharded training must "
                f"be merged before another number of ranks loads them: python -m mindspore_offload merge. {HALF_LOADED}"
            )
            refuse(ValueError, name, "data", f"have its shape {self.whole}{of_piece}", shape, cure)
        start, size = 0, math.prod(self.whole)
        if self.piece:
            size = max(min(self.piece.size, size - self.piece.begin), 0)
            start = 0 if shape == brought.shape(self.shape) else self.piece.begin
        if brought.has_codes:
            # A piece begins with a block.
            blocks = data.asnumpy()[start // brought.block : -(-(start + size) // brought.block)]
            if brought is own:
                return blocks.reshape(-1)
            data, start = Tensor(brought.codec.decode(blocks, self.moment)), 0
        dtype = float32 if own.has_codes else self.dtype
        values = data.astype(dtype).asnumpy().reshape(-1)[start : start + size]
        return own.codec.encode(values, self.moment).reshape(-1) if own.has_codes else values


class Loadable(Tensor):
    """A state as MindSpore's loader sees it. The state itself has its own shape and dtype, and no others."""

    @property
    def shape(self):
        return _tolerant(self.form.may_load, tuple, super().shape)

    @property
    def dtype(self):
        own = self.form.dtype
        return _tolerant(formats.moment_format, type(own), 8 * Tensor(0, own).itemsize) if self.form.moment else own


def _tolerant(accepts, kind, value):
    """Returns a value of this class that equals all that it accepts."""
    tolerant = _tolerant_class(kind)(value)
    tolerant.accepts = accepts
    return tolerant


@functools.cache
def _tolerant_class(kind):
    class Tolerant(kind):
        def __eq__(self, other):
            return bool(self.accepts(other))

        def __ne__(self, other):
            return not self.accepts(other)

        __hash__ = kind.__hash__

    return Tolerant
