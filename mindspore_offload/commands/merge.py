# SPDX-License-Identifier: Apache-2.0

"""``merge``: makes one whole checkpoint of those that the ranks of a sharded optimizer saved."""

import contextlib
import itertools
import math
import os
import resource
import time

from mindspore_offload.commands import checkpoint_writer
from mindspore_offload.commands.checkpoint_file import CHECKSUM_TEXT
from mindspore_offload.commands.checkpoint_source import Source, is_safetensors
from mindspore_offload.commands.checkpoint_writer import Output
from mindspore_offload.commands.common import CommandError, say
from mindspore_offload.commands.rank_files import SAME_STEP, in_order, layout_of

HELP = "merges the checkpoints that all ranks of a sharded optimizer saved into one whole checkpoint"

SECONDS = 5  # between two lines of progress
NAMES_SHOWN = 5


def add_options(parser):
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="the checkpoints of all ranks, saved in the same step; in any order, all .ckpt or all .safetensors",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the checkpoint to write, of the same format as the others",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(arguments):
    """Writes the whole checkpoint and prints its size. Returns 0."""
    output = arguments.output
    _check_paths(arguments.files, output, arguments.overwrite)
    _allow_open_files(len(arguments.files))
    try:
        with contextlib.ExitStack() as stack:
            ranks = in_order(stack.enter_context(Source(path)) for path in arguments.files)
            merge = _Merge(ranks)
            with checkpoint_writer.named_at_the_end(output, arguments.overwrite) as file:
                merge.write(file)
    except FileExistsError as error:
        raise _exists(output) from error
    except OSError as error:
        raise CommandError(f"-o {output!r} can't be written: {error.strerror}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f": {output!r} was not written") from None
    try:
        print(f"{output!r}: {merge.length:,} bytes of tensors from {len(ranks)} ranks, after step {ranks[0].step}")
        if merge.differing:
            shown = ", ".join(f"{name!r:.60}" for name in merge.differing[:NAMES_SHOWN])
            more = f" and {len(merge.differing) - NAMES_SHOWN} others" if len(merge.differing) > NAMES_SHOWN else ""
            print(f"Different on the ranks, and taken from rank 0: {shown}{more}")
    except CommandError as error:
        raise CommandError(f"{error}; {output!r} is complete") from error
    return 0


def _check_paths(files, output, may_overwrite):
    """Refuses an output that would replace an input or something else, and mixed formats."""
    if not output.lower().endswith((".ckpt", ".safetensors")):
        raise CommandError(f"-o must end in .ckpt or .safetensors, but got {output!r}")
    for path in files:
        if is_safetensors(path) != is_safetensors(output):
            raise CommandError(f"{path!r} and -o {output!r} must be of the same format, .ckpt or .safetensors")
    if not os.path.lexists(output):
        return
    if not os.path.isfile(output):
        raise CommandError(f"-o {output!r} is not a regular file; give another path")
    for path in files:
        if os.path.exists(path) and os.path.samefile(path, output):
            raise CommandError(f"-o {output!r} is one of the files to merge; give another path")
    if not may_overwrite:
        raise _exists(output)


def _exists(output):
    return CommandError(f"-o {output!r} exists; give another path, or --overwrite")


def _allow_open_files(count):
    """Raises this process's limit of open files as far as it may, if `count` files and some others need that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 100 if hard == resource.RLIM_INFINITY else min(count + 100, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Merge:
    """The merge of the checkpoints of all ranks.

    Attributes:
        length (int): The bytes of all tensors of the whole checkpoint.
        differing (list[str]): Names of the user's tensors that were found to differ on the ranks.
    """

    def __init__(self, ranks):
        self._ranks, self._first = ranks, ranks[0]
        self._layout = layout_of(ranks)
        self._names = [name for name in self._first.entries if name not in self._layout.dropped]
        self._checksums = [rank.source.checksum() for rank in ranks]
        self.length = sum(map(self._length, self._names))
        self.differing = []
        checked = sum(rank.source.length for rank, checksum in zip(ranks, self._checksums) if checksum)
        self._progress = _Progress(checked + self.length)

    def _length(self, name):
        entry = self._first.entries[name]
        if name not in self._layout.cut:
            return entry.length
        return math.prod(self._layout.cut[name]) * (entry.length // entry.size)

    def write(self, file):
        """Writes the whole checkpoint, after the checksums of the files were checked."""
        for rank, checksum in zip(self._ranks, self._checksums):
            if checksum:
                rank.source.check(checksum, rank.entries, self._progress)
        outputs = [self._output(name) for name in self._names]
        source = self._first.source
        if source.is_safetensors:
            texts = {name: text for name, text in source.metadata().items() if name != CHECKSUM_TEXT}
            checkpoint_writer.safetensors(file, outputs, texts)
        else:
            checkpoint_writer.ckpt(file, outputs, has_checksum=all(self._checksums))

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
        for rank in self._ranks:
            for block in rank.blocks(name):
                taken = min(len(block), left)
                left -= taken
                if block[taken:].strip(b"\0"):
                    raise rank.source.damaged(f"the padding of {name!r:.60} is not zero")
                yield block[:taken]

    def _whole(self, name):
        """Yields a tensor of rank 0, and compares it with those of the others."""
        others = [(rank, rank.blocks(name)) for rank in self._ranks[1:]]
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


class _Progress:
    """Prints how many bytes are done, a line every few seconds."""

    def __init__(self, total):
        self._total, self._done = total, 0
        self._next = time.monotonic() + SECONDS

    def __call__(self, count):
        self._done += count
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS
            say(f"... {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB")
