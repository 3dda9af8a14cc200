# SPDX-License-Identifier: Apache-2.0

"""Finds out which tensors in the checkpoints of ranks are pieces, by their names, shapes and dtypes."""

import re
from typing import NamedTuple

from mindspore_offload.checkpoints.ckpt_file import MAP
from mindspore_offload.distributed.pieces import STATE, piece_size
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import EXACT, MOMENT_FORMATS, MOMENT_NAMES

# The states that no parameter has: they are whole, and equal on all ranks.
COUNTERS = re.compile(r"beta[12]_power|learning_rate(_group_\d+)?|global_(step|norm)|skipped_steps")
STATE_DTYPES = {name: [row.dtype for row in MOMENT_FORMATS.values()] for name in MOMENT_NAMES} | {"master": ["float32"]}


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


def layout_of(file):
    """Returns the `Layout` that the `RankFile` of each rank has."""
    entries, optimizers = file.source.entries, file.optimizers
    for entry in entries.values():
        if entry.code == MAP:
            raise CommandError(f"{file.source} has a map of parameters, {entry.name!r:.60}, which can't be merged")
    layout = Layout({}, set(), {f"{prefix}{STATE}" for prefix in optimizers})
    updated = {prefix: _names_of_parameters(entries, prefix) for prefix in optimizers}
    candidates = _candidates(file, set().union(*updated.values()))
    for prefix, names in updated.items():
        counters = (name for name in entries if name.startswith(prefix) and COUNTERS.fullmatch(name, len(prefix)))
        layout.equal.update(counters)
        for name, parameters in _parameters(file, prefix, names, candidates).items():
            layout.equal.update(parameter.name for parameter in parameters)
            _add_states(layout, file, prefix, name, parameters[0])
    return layout


def _names_of_parameters(entries, prefix):
    """Returns the names that an optimizer has for the parameters that it updates."""
    start = f"{prefix}moment1."
    names = [name[len(start) :] for name in entries if name.startswith(start)]
    # A net may have a parameter of such a name, but hardly of both.
    return [name for name in names if f"{prefix}moment2.{name}" in entries]


def _candidates(file, names):
    """Returns for each of the names the entries that have it, by the prefix before it. States are not among them."""
    states = tuple(f"{prefix}{kind}." for prefix in file.optimizers for kind in STATE_DTYPES)
    found = {name: {} for name in names}
    for name, entry in file.source.entries.items():
        if name.startswith(states):
            continue
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            if name[start:] in found:
                found[name[start:]][name[:start]] = entry
    return found


def _parameters(file, prefix, names, candidates):
    """Returns for each name that an optimizer has for a parameter the entries of that parameter.

    A cell that holds the optimizer, or the net, may have prefixed the parameter's name since. Then these are all that
    may be it by their names and sizes: those with a prefix that suits all parameters of the optimizer, if there are
    any. They have one shape.
    """
    entries = file.source.entries
    found = {name: [entries[f"{prefix}{name}"]] for name in names if f"{prefix}{name}" in entries}
    fits = {
        name: {cell: entry for cell, entry in candidates[name].items() if _fits(entries[state], entry, file.ranks)}
        for name, state in ((name, f"{prefix}moment1.{name}") for name in names if name not in found)
    }
    common = set.intersection(*map(set, fits.values())) if fits else set()
    for name, fitting in fits.items():
        found[name] = [entry for cell, entry in fitting.items() if cell in common] or list(fitting.values())
        if len({entry.shape for entry in found[name]}) != 1:
            raise CommandError(
                f"{file.source} has the moments of {name!r:.60}, but "
                f"{'several parameters' if fitting else 'no parameter'} of that name and a size that fits; save the "
                f"training cell or the optimizer with all its parameters"
            )
    return found


def _add_states(layout, file, prefix, name, parameter):
    """Adds the states of a parameter, to which the optimizer gave this name, to the layout."""
    for kind, dtypes in STATE_DTYPES.items():
        state = file.source.entries.get(f"{prefix}{kind}.{name}")
        if state is None:  # a float32 parameter has no master
            continue
        if state.dtype not in dtypes:
            raise file.source.damaged(f"{state.name!r:.60} has the dtype {state.code:.20}, not {' or '.join(dtypes)}")
        whole, piece = _shapes_of(state, parameter, file.ranks)
        if state.shape == whole:
            layout.equal.add(state.name)
        elif state.shape == piece:
            layout.cut[state.name] = whole
        else:
            raise file.source.damaged(
                f"{state.name!r:.60} has the shape {state.shape!r:.60}, but on one of {file.ranks} ranks it would have "
                f"{piece or whole!r:.60}"
            )


def _fits(state, parameter, ranks):
    return state.shape in _shapes_of(state, parameter, ranks)


def _shapes_of(state, parameter, ranks):
    """Returns the shapes of a state in the dtype of `state`: whole, and of a rank's piece; None if it stays whole."""
    moments, piece = MOMENT_FORMATS.get(state.dtype, EXACT), piece_size(parameter.size, ranks)
    return moments.shape(parameter.shape), moments.shape((piece,)) if piece else None
