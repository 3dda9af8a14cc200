# SPDX-License-Identifier: Apache-2.0

"""Makes one whole checkpoint of those that the ranks of a sharded optimizer saved, a block of bytes at a time."""

import itertools
import math
import re

from mindspore_offload.checkpoints.ckpt_file import MAP
from mindspore_offload.distributed.pieces import STATE, piece_size
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import EXACT, MOMENT_FORMATS, MOMENT_NAMES

RANKS, STEP = "the number of ranks", "the step"
# The states that no parameter has: they are whole, and equal on all ranks.
COUNTERS = r"beta[12]_power|learning_rate(_group_\d+)?|global_(step|norm)|skipped_steps"
STATE_DTYPES = {name: list(MOMENT_FORMATS) for name in MOMENT_NAMES} | {"master": ["float32"]}


class Merge:
    """The merge of the checkpoints of all ranks.

    Args:
        sources (Iterable[CheckpointFile]): The checkpoints, in any order.

    Attributes:
        ranks (int): The number of ranks.
        step (int): The number of steps taken.
        length (int): The bytes of all tensors of the whole checkpoint.
        work (int): The bytes to check and to write.
        differing (list[str]): Names of the user's tensors that were found to differ on the ranks.
    """

    def __init__(self, sources):
        self._sources, common = _in_order(sources)
        self.ranks, self.step, self.differing = common[RANKS], common[STEP], []
        first = self._sources[0]
        optimizers = _optimizers(first)
        self._shapes = _whole_shapes(first, optimizers, self.ranks)
        dropped = {f"{prefix}{STATE}" for prefix in optimizers}
        self._tensors = [self._tensor(entry) for entry in first.entries.values() if entry.name not in dropped]
        self._checked = [source for source in self._sources if source.checksum]
        self.length = sum(entry.length for entry, _ in self._tensors)
        self.work = self.length + sum(source.length for source in self._checked)

    def write(self, file):
        """Checks the checksums of the files, then writes the whole checkpoint. Yields the bytes of each block done."""
        for source in self._checked:
            yield from source.check()
        for part in self._sources[0].written(self._tensors, self._checked == self._sources):
            yield file.write(part)

    def _tensor(self, entry):
        """Returns a tensor of the whole checkpoint: its `Entry`, and its bytes in blocks."""
        shape = self._shapes.get(entry.name, entry.shape)
        if shape == entry.shape:
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
        first, *others = self._sources
        compared = [(source, source.blocks(name)) for source in others]
        for block in itertools.chain(first.blocks(name), [b""]):  # the others must have ended then, too
            different = next((source for source, blocks in compared if next(blocks, b"") != block), None)
            if different:
                if name in self._shapes:
                    raise _mixed(
                        f"{name!r:.60} in {different} differs from that in {first}, but must be the same on all ranks"
                    )
                self.differing.append(name)
                compared = []
            yield block


def _in_order(sources):
    """Returns the checkpoints in the order of the ranks, and what they have in common, by its name in errors.

    None may be missing, and all must be of one training and one step.
    """
    files, first, expected = {}, None, None
    for source in sources:
        rank, found = _identity(source)
        first, expected = first or source, expected or found
        for name in expected | found:
            own, other = found.get(name, "missing"), expected.get(name, "missing")
            if own != other:
                raise _mixed(f"{name:.60} is {own!s:.90} in {source}, but {other!s:.90} in {first}")
        if source.entries == first.entries:  # as a rule: then one copy is enough for all ranks
            source.entries = first.entries
        if rank in files:
            raise _mixed(f"rank {rank} of {found[RANKS]} is in both {files[rank]} and {source}")
        files[rank] = source
    for rank in range(expected[RANKS]):
        if rank not in files:
            raise _mixed(f"rank {rank} of {expected[RANKS]} is missing")
    return [files[rank] for rank in sorted(files)], expected


def _identity(source):
    """Returns the rank, and what all ranks must have in common, by its name in errors."""
    optimizers = _optimizers(source)
    if not optimizers:
        raise CommandError(
            f"{source} was not saved by an optimizer with shard_states=True: it has no {STATE!r} with a 'global_step'; "
            f"without shard_states, the file of any data-parallel rank is whole already, and the files of "
            f"semi-automatic parallel are merged by mindspore.unified_safetensors or mindspore.transform_checkpoints"
        )
    shards = {source.integers(f"{prefix}{STATE}", 2) for prefix in optimizers}
    (rank, ranks), *others = shards
    if others or not 0 <= rank < ranks:
        raise source.damaged(f"its {STATE!r} is {shards}, and must be one rank and the larger number of ranks")
    (step,) = source.integers(f"{optimizers[0]}global_step", 1)
    common = {RANKS: ranks, STEP: step}
    for name, entry in source.entries.items():
        if entry.code == MAP:
            raise CommandError(f"{source} has a map of parameters, {name!r:.60}, which can't be merged")
        common[repr(name)] = f"{entry.code} of shape {entry.shape}"
    return rank, common


def _optimizers(source):
    """Returns the prefix of each sharded optimizer's states, as the cell that holds it gives it."""
    prefixes = [name.removesuffix(STATE) for name in source.entries if f".{name}".endswith(f".{STATE}")]
    return [prefix for prefix in prefixes if f"{prefix}global_step" in source.entries]


def _mixed(text):
    """Returns the error for files that are not of one training and one step."""
    return CommandError(f"{text}; give the files that all ranks of one training saved in the same step")


def _whole_shapes(source, optimizers, ranks):
    """Returns the shapes of the optimizers' parameters and states in the whole checkpoint, by their names.

    A state that has another shape in `source` is a piece. All others must be equal on all ranks.

    Args:
        source (CheckpointFile): The checkpoint of a rank.
        optimizers (list[str]): The prefix of each optimizer's states.
        ranks (int): The number of ranks.
    """
    entries, prefixes = source.entries, "|".join(map(re.escape, optimizers))
    counter = re.compile(f"({prefixes})({COUNTERS})")
    shapes = {name: entry.shape for name, entry in entries.items() if counter.fullmatch(name)}
    states = tuple(f"{prefix}{kind}." for prefix in optimizers for kind in STATE_DTYPES)
    for prefix in optimizers:
        for name, shape, paths in _parameters(source, prefix, states, ranks):
            shapes.update(dict.fromkeys(paths, shape))
            for kind, dtypes in STATE_DTYPES.items():
                state = entries.get(f"{prefix}{kind}.{name}")
                if state is None:  # a float32 parameter has no master
                    continue
                whole, piece = _shapes(state, shape, ranks)
                if state.dtype not in dtypes or state.shape not in (whole, piece):
                    raise source.damaged(
                        f"{state.name!r:.60} is {state.code:.20} of shape {state.shape!r:.60}, but must be "
                        f"{' or '.join(dtypes)}, and of shape {piece!r:.60} on each of {ranks} ranks"
                    )
                shapes[state.name] = whole
    return shapes


def _parameters(source, prefix, states, ranks):
    """Yields each name that an optimizer has for a parameter, the parameter's shape, and its names in the file.

    A cell that holds the optimizer, or the net, may have prefixed the parameter's name since. Then these are the names
    of all tensors but `states` that may be it by their names and sizes: those with a prefix that suits all parameters
    of the optimizer, if there are any. They have one shape.
    """
    start = f"{prefix}moment1."
    moments = {name[len(start) :]: entry for name, entry in source.entries.items() if name.startswith(start)}
    # A net may have a parameter of such a name, but hardly of both.
    found = {name: {} for name in moments if f"{prefix}moment2.{name}" in source.entries}  # shapes by prefix
    for path, entry in source.entries.items():
        for dot in re.finditer(r"^|\.", path):
            cell, name = path[: dot.end()], path[dot.end() :]
            if name not in found or cell.startswith(states):
                continue
            if cell == prefix or moments[name].shape in _shapes(moments[name], entry.shape, ranks):
                found[name][cell] = entry.shape
    common = set().union(*found.values()).intersection(*found.values())
    for name, fitting in found.items():
        cells = fitting.keys() & {prefix} or fitting.keys() & common or fitting
        shapes = {fitting[cell] for cell in cells}
        if len(shapes) != 1:
            raise CommandError(
                f"{source} has the moments of {name!r:.60}, but "
                f"{'several parameters' if fitting else 'no parameter'} of that name and a size that fits; save the "
                f"training cell or the optimizer with all its parameters"
            )
        yield name, shapes.pop(), [f"{cell}{name}" for cell in cells]


def _shapes(state, shape, ranks):
    """Returns the shapes of the state of a parameter of this shape, in the dtype of `state`: whole, and on a rank."""
    moments, piece = MOMENT_FORMATS.get(state.dtype, EXACT), piece_size(math.prod(shape), ranks)
    return moments.shape(shape), moments.shape((piece,) if piece else shape)
