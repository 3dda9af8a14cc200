# SPDX-License-Identifier: Apache-2.0

"""Makes one whole checkpoint of those that the ranks of a sharded optimizer saved, a block of bytes at a time."""

import itertools
import math

from mindspore_offload.checkpoints.layout import layout_of
from mindspore_offload.checkpoints.rank_files import in_order, mixed


class Merge:
    """The merge of the checkpoints of all ranks.

    Args:
        sources (Iterable[CheckpointFile]): The checkpoints, in any order.

    Attributes:
        ranks (list[RankFile]): The checkpoints in the order of the ranks.
        length (int): The bytes of all tensors of the whole checkpoint.
        work (int): The bytes to check and to write.
        differing (list[str]): Names of the user's tensors that were found to differ on the ranks.
    """

    def __init__(self, sources):
        self.ranks = in_order(sources)
        self._sources = [rank.source for rank in self.ranks]
        self._layout = layout_of(self.ranks[0])
        entries = self._sources[0].entries.values()
        self._tensors = [self._tensor(entry) for entry in entries if entry.name not in self._layout.dropped]
        self.length = sum(entry.length for entry, _ in self._tensors)
        self.work = self.length + sum(source.length for source in self._sources if source.checksum)
        self.differing = []

    def write(self, file, progress):
        """Writes the whole checkpoint, after the checksums of the files were checked.

        Calls `progress` with the number of bytes of each block done.
        """
        for source in self._sources:
            if source.checksum:
                for count in source.check():
                    progress(count)
        has_checksum = all(source.checksum for source in self._sources)
        for part in self._sources[0].written(self._tensors, has_checksum):
            file.write(part)
            progress(len(part))

    def _tensor(self, entry):
        """Returns a tensor of the whole checkpoint: its `Entry`, and its bytes in blocks."""
        shape = self._layout.cut.get(entry.name)
        if shape is None:
            return entry, self._same(entry.name)
        length = entry.length // entry.size * math.prod(shape)
        return entry._replace(shape=shape, places=[range(length)]), self._joined(entry.name, length)

    def _joined(self, name, length):
        """Yields the pieces of a state, one after the other, without the padding behind its last element."""
        for source in self._sources:
            for block in source.blocks(name):
                if block[length:].strip(b"\0"):
                    raise source.damaged(f"the padding of {name!r:.60} is not zero")
                yield block[:length]
                length = max(length - len(block), 0)

    def _same(self, name):
        """Yields a tensor of rank 0, and compares it with those of the others."""
        first, *others = ((source, source.blocks(name)) for source in self._sources)
        for block in itertools.chain(first[1], [None]):  # after None, the others must have ended, too
            different = next((source for source, blocks in others if next(blocks, None) != block), None)
            if different is not None:
                self._note_difference(name, different)
                others = []
            if block is not None:
                yield block

    def _note_difference(self, name, source):
        if name in self._layout.equal:
            first = self._sources[0]
            raise mixed(f"{name!r:.60} in {source} differs from that in {first}, but must be the same on all ranks")
        self.differing.append(name)
