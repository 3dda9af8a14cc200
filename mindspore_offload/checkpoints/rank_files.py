# SPDX-License-Identifier: Apache-2.0

"""The checkpoints that the ranks of a sharded optimizer saved: puts them in order and checks that they fit together."""

import re
from typing import NamedTuple

from mindspore_offload.checkpoints.file_formats import MAP
from mindspore_offload.checkpoints.reading import Source
from mindspore_offload.distributed.pieces import STATE, piece_size
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import EXACT, MOMENT_FORMATS, MOMENT_NAMES

# The states that no parameter has: they are whole, and equal on all ranks.
COUNTERS = re.compile(r"beta[12]_power|learning_rate(_group_\d+)?|global_(step|norm)|skipped_steps")
STATE_DTYPES = {name: [row.dtype for row in MOMENT_FORMATS.values()] for name in MOMENT_NAMES} | {"master": ["float32"]}

SAME_STEP = "give the files that all ranks of one training saved in the same step"


class RankFile(NamedTuple):
    """The checkpoint of a rank.

    Attributes:
        source (Source): The open file.
        entries (dict[str, Entry]): Its tensors, by name.
        optimizers (tuple[str]): The prefix of each sharded optimizer's states, as the cell that holds it gives it.
        rank, ranks (int): The rank, and the number of ranks.
        step (int): The number of steps taken.
    """

    source: Source
    entries: dict
    optimizers: tuple
    rank: int
    ranks: int
    step: int

    def blocks(self, name):
        """Yields the bytes of a tensor in blocks, which have the same sizes in the files of all ranks."""
        return self.source.blocks(self.entries[name].places)


class Layout(NamedTuple):
    """How the tensors of the ranks make a whole checkpoint.

    Attributes:
        cut (dict[str, tuple]): The states of which each rank has a piece, with the shape of the whole state.
        equal (set[str]): The names of the tensors that must be equal on all ranks.
        dropped (set[str]): The names of the tensors that a whole checkpoint does not have.
    """

    cut: dict
    equal: set
    dropped: set


def in_order(sources):
    """Returns the `RankFile` of each rank in the order of the ranks, of which none may be missing."""
    files, first = {}, None
    for source in sources:
        file = _rank_file(source)
        first = first or file
        if file.entries == first.entries:  # as a rule: then one copy is enough for all ranks
            file = file._replace(entries=first.entries)
        if file.ranks != first.ranks:
            raise CommandError(
                f"{file.source} is of {file.ranks} ranks, but {first.source} is of {first.ranks}; {SAME_STEP}"
            )
        if file.rank in files:
            raise CommandError(
                f"rank {file.rank} of {file.ranks} is in both {files[file.rank].source} and {file.source}; {SAME_STEP}"
            )
        files[file.rank] = file
    missing = next((rank for rank in range(first.ranks) if rank not in files), None)
    if missing is not None:
        raise CommandError(f"rank {missing} of {first.ranks} is missing; {SAME_STEP}")
    return [files[rank] for rank in range(first.ranks)]


def _rank_file(source):
    entries = source.entries()
    prefixes = [name[: -len(STATE)] for name in entries if name == STATE or name.endswith(f".{STATE}")]
    optimizers = tuple(prefix for prefix in prefixes if f"{prefix}global_step" in entries)
    if not optimizers:
        raise CommandError(
            f"{source} was not saved by an optimizer with shard_states=True: it has no {STATE!r} with a 'global_step'; "
            f"without shard_states, the file of any data-parallel rank is whole already, and the files of "
            f"semi-automatic parallel are merged by mindspore.unified_safetensors or mindspore.transform_checkpoints"
        )
    shards = {source.integers(entries[f"{prefix}{STATE}"], 2) for prefix in optimizers}
    rank, ranks = min(shards)
    if len(shards) > 1 or not 0 <= rank < ranks:
        raise source.damaged(f"it says that its rank is {' and '.join(f'{r} of {n}' for r, n in sorted(shards))}")
    (step,) = source.integers(entries[f"{optimizers[0]}global_step"], 1)
    return RankFile(source, entries, optimizers, rank, ranks, step)


def layout_of(files):
    """Checks that the files are of one training and one step, and returns their `Layout`."""
    first = files[0]
    for file in files[1:]:
        _check_same_tensors(first, file)
        if file.step != first.step:
            raise CommandError(
                f"{file.source} is of step {file.step}, but {first.source} of step {first.step}; {SAME_STEP}"
            )
    for entry in first.entries.values():
        if entry.code == MAP:
            raise CommandError(f"{first.source} has a map of parameters, {entry.name!r:.60}, which can't be merged")
    layout = Layout({}, set(), {f"{prefix}{STATE}" for prefix in first.optimizers})
    updated = {prefix: [] for prefix in first.optimizers}  # the names that an optimizer has for its parameters
    for name in first.entries:
        for prefix, rest in _cuts(name):
            if prefix not in updated:
                continue
            kind, _, parameter = rest.partition(".")
            if COUNTERS.fullmatch(rest):
                layout.equal.add(name)
            # A net may have a parameter of such a name, but hardly of both.
            elif kind == "moment1" and f"{prefix}moment2.{parameter}" in first.entries:
                updated[prefix].append(parameter)
    entries = _entries_by_name(first, set().union(*updated.values()))
    for prefix, names in updated.items():
        for name, parameters in _parameters(first, prefix, names, entries).items():
            _add_states(layout, first, prefix, name, parameters)
    return layout


def _cuts(name):
    """Yields a prefix of the name and the rest, for each dot at which the prefix may end, and for no prefix."""
    start = 0
    while True:
        yield name[:start], name[start:]
        start = name.find(".", start) + 1
        if not start:
            return


def _entries_by_name(file, names):
    """Returns for each of the names the entries that have it, by the prefix before it. States are not among them."""
    states = {f"{prefix}{kind}." for prefix in file.optimizers for kind in STATE_DTYPES}
    found = {name: {} for name in names}
    for name, entry in file.entries.items():
        cuts = list(_cuts(name))
        if not any(prefix in states for prefix, _ in cuts):
            for prefix, rest in cuts:
                if rest in found:
                    found[rest][prefix] = entry
    return found


def _check_same_tensors(first, file):
    for one, other in ((first, file), (file, first)):
        missing = next((name for name in one.entries if name not in other.entries), None)
        if missing is not None:
            raise CommandError(f"{other.source} has no {missing!r:.60}, but {one.source} has; {SAME_STEP}")
    for name, entry in first.entries.items():
        other = file.entries[name]
        if (entry.shape, entry.code) != (other.shape, other.code):
            raise CommandError(
                f"{name!r:.60} has the shape {other.shape!r:.60} and the dtype {other.code:.20} in {file.source}, but "
                f"{entry.shape!r:.60} and {entry.code:.20} in {first.source}; {SAME_STEP}"
            )


def _add_states(layout, file, prefix, name, parameters):
    """Adds the states of a parameter to the layout, and the parameter, to which the optimizer gave this name."""
    layout.equal.update(parameter.name for parameter in parameters)
    for kind, dtypes in STATE_DTYPES.items():
        state = file.entries.get(f"{prefix}{kind}.{name}")
        if state is None:  # a float32 parameter has no master
            continue
        if state.dtype not in dtypes:
            raise file.source.damaged(f"{state.name!r:.60} has the dtype {state.code:.20}, not {' or '.join(dtypes)}")
        whole, piece = _shapes_of(state, parameters[0], file.ranks)
        if state.shape == whole:
            layout.equal.add(state.name)
        elif state.shape == piece:
            layout.cut[state.name] = whole
        else:
            raise file.source.damaged(
                f"{state.name!r:.60} has the shape {state.shape!r:.60}, but on one of {file.ranks} ranks it would have "
                f"{piece or whole!r:.60}"
            )


def _shapes_of(state, parameter, ranks):
    """Returns the shapes of a state in the dtype of `state`: whole, and of a rank's piece; None if it stays whole."""
    moments, piece = MOMENT_FORMATS.get(state.dtype, EXACT), piece_size(parameter.size, ranks)
    return moments.shape(parameter.shape), moments.shape((piece,)) if piece else None


def _parameters(file, prefix, names, entries):
    """Returns for each name that an optimizer has for a parameter the entries of that parameter.

    A cell that holds the optimizer, or the net, may have prefixed the parameter's name since. Then these are all that
    may be it by their names and sizes: those with a prefix that suits all parameters of the optimizer, if there are
    any. They have one shape.
    """
    own, others = {}, {}
    for name in names:
        entry = file.entries.get(f"{prefix}{name}")
        if entry is not None:
            own[name] = [entry]
            continue
        state = file.entries[f"{prefix}moment1.{name}"]
        fits = {cell: e for cell, e in entries[name].items() if state.shape in _shapes_of(state, e, file.ranks)}
        others[name] = fits
    common = set.intersection(*map(set, others.values())) if others else set()
    for name, fits in others.items():
        own[name] = found = [entry for cell, entry in fits.items() if cell in common] or list(fits.values())
        if len({entry.shape for entry in found}) != 1:
            raise CommandError(
                f"{file.source} has the moments of {name!r:.60}, but "
                f"{'several parameters' if found else 'no parameter'} of that name and a size that fits; save the "
                f"training cell or the optimizer with all its parameters"
            )
    return own
