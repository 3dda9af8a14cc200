# SPDX-License-Identifier: Apache-2.0

"""Makes one whole checkpoint of those that the ranks of a sharded optimizer saved, a block of bytes at a time.

MindSpore's `load_checkpoint` and the safetensors package's writer hold all tensors of a file in memory. The checkpoints
of a large model's ranks are larger than that.
"""

import itertools
import math

from mindspore_offload.checkpoints import writing
from mindspore_offload.checkpoints.file_formats import CHECKSUM_TEXT
from mindspore_offload.checkpoints.rank_files import SAME_STEP, in_order, layout_of
from mindspore_offload.checkpoints.writing import Output
from mindspore_offload.errors import CommandError


class Merge:
    """The merge of the checkpoints of all ranks.

    Args:
        sources (Iterable[Source]): The open checkpoints, in any order.
        progress (Callable): Returns, for the number of bytes to do, what is called with the bytes of each block done.

    Attributes:
        ranks (list[RankFile]): The checkpoints in the order of the ranks.
        length (int): The bytes of all tensors of the whole checkpoint.
        differing (list[str]): Names of the user's tensors that were found to differ on the ranks.
    """

    def __init__(self, sources, progress):
        self.ranks = ranks = in_order(sources)
        self._first, self._layout = ranks[0], layout_of(ranks)
        self._names = [name for name in self._first.entries if name not in self._layout.dropped]
        self._checksums = [rank.source.checksum() for rank in ranks]
        self.length = sum(map(self._length, self._names))
        self.differing = []
        checked = sum(rank.source.length for rank, checksum in zip(ranks, self._checksums) if checksum)
        self._progress = progress(checked + self.length)

    def _length(self, name):
        entry = self._first.entries[name]
        if name not in self._layout.cut:
            return entry.length
        return math.prod(self._layout.cut[name]) * (entry.length // entry.size)

    def write(self, file):
        """Writes the whole checkpoint, after the checksums of the files were checked."""
        for rank, checksum in zip(self.ranks, self._checksums):
            if checksum:
                rank.source.check(checksum, rank.entries, self._progress)
        outputs = [self._output(name) for name in self._names]
        source = self._first.source
        if source.is_safetensors:
            texts = {name: text for name, text in source.metadata().items() if name != CHECKSUM_TEXT}
            writing.safetensors(file, outputs, texts)
        else:
            writing.ckpt(file, outputs, has_checksum=all(self._checksums))

    def _output(self, name):
        entry = self._first.entries[name]
        shape, blocks = entry.shape, self._whole(name)
        if name in self._layout.cut:
            shape, blocks = self._layout.cut[name], self._joined(name)
        return Output(name, shape, entry.code, self._length(name), self._counted(blocks))

    def _counted(self, blocks):
        for block in blocks:
            yield block
            self._progress(len(block))

    def _joined(self, name):
        """Yields the pieces of a state, one after the other, without the padding behind its last element."""
        left = self._length(name)
        for rank in self.ranks:
            for block in rank.blocks(name):
                taken = min(len(block), left)
                left -= taken
                if block[taken:].strip(b"\0"):
                    raise rank.source.damaged(f"the padding of {name!r:.60} is not zero")
                yield block[:taken]

    def _whole(self, name):
        """Yields a tensor of rank 0, and compares it with those of the others."""
        others = [(rank, rank.blocks(name)) for rank in self.ranks[1:]]
        for block in itertools.chain(self._first.blocks(name), [None]):  # after None, the others must have ended, too
            different = next((rank for rank, blocks in others if next(blocks, None) != block), None)
            if different is not None:
                self._note_difference(name, different)
                others = []
            if block is not None:
                yield block

    def _note_difference(self, name, rank):
        if name in self._layout.equal:
            raise CommandError(
                f"{name!r:.60} in {rank.source} differs from that in {self._first.source}, but must be the same on all "
                f"ranks; {SAME_STEP}"
            )
        self.differing.append(name)
