# SPDX-License-Identifier: Apache-2.0

"""The checkpoints that the ranks of a sharded optimizer saved: puts them in order and checks that they fit together."""

from typing import NamedTuple

from mindspore_offload.checkpoints.checkpoint_file import CheckpointFile
from mindspore_offload.distributed.pieces import STATE
from mindspore_offload.errors import CommandError


class RankFile(NamedTuple):
    """The checkpoint of a rank.

    Attributes:
        source (CheckpointFile): The open file.
        optimizers (tuple[str]): The prefix of each sharded optimizer's states, as the cell that holds it gives it.
        rank, ranks (int): The rank, and the number of ranks.
        step (int): The number of steps taken.
    """

    source: CheckpointFile
    optimizers: tuple
    rank: int
    ranks: int
    step: int


def in_order(sources):
    """Returns the `RankFile` of each rank in the order of the ranks.

    None may be missing, and all must be of one training and one step.
    """
    files, first = {}, None
    for source in sources:
        file = _rank_file(source)
        first = first or file
        if source.entries == first.source.entries:  # as a rule: then one copy is enough for all ranks
            source.entries = first.source.entries
        if file.ranks != first.ranks:
            raise mixed(f"{source} is of {file.ranks} ranks, but {first.source} is of {first.ranks}")
        if file.rank in files:
            other = files[file.rank].source
            raise mixed(f"rank {file.rank} of {file.ranks} is in both {other} and {source}")
        files[file.rank] = file
    missing = next((rank for rank in range(first.ranks) if rank not in files), None)
    if missing is not None:
        raise mixed(f"rank {missing} of {first.ranks} is missing")
    ranks = [files[rank] for rank in range(first.ranks)]
    for file in ranks[1:]:
        _check_fits(file, ranks[0])
    return ranks


def _rank_file(source):
    prefixes = [name[: -len(STATE)] for name in source.entries if name == STATE or name.endswith(f".{STATE}")]
    optimizers = tuple(prefix for prefix in prefixes if f"{prefix}global_step" in source.entries)
    if not optimizers:
        raise CommandError(
            f"{source} was not saved by an optimizer with shard_states=True: it has no {STATE!r} with a 'global_step'; "
            f"without shard_states, the file of any data-parallel rank is whole already, and the files of "
            f"semi-automatic parallel are merged by mindspore.unified_safetensors or mindspore.transform_checkpoints"
        )
    shards = {source.integers(f"{prefix}{STATE}", 2) for prefix in optimizers}
    rank, ranks = min(shards)
    if len(shards) > 1 or not 0 <= rank < ranks:
        raise source.damaged(f"it says that its rank is {' and '.join(f'{r} of {n}' for r, n in sorted(shards))}")
    (step,) = source.integers(f"{optimizers[0]}global_step", 1)
    return RankFile(source, optimizers, rank, ranks, step)


def _check_fits(file, first):
    """Refuses a file whose tensors have other names, shapes or dtypes than those of the first one, or another step."""
    own, others = file.source.entries, first.source.entries
    for name in own.keys() ^ others.keys():
        lacking, having = (first, file) if name in own else (file, first)
        raise mixed(f"{lacking.source} has no {name!r:.60}, but {having.source} has")
    for name, entry in own.items():
        other = others[name]
        if (entry.shape, entry.code) != (other.shape, other.code):
            raise mixed(
                f"{name!r:.60} has the shape {entry.shape!r:.60} and the dtype {entry.code:.20} in {file.source}, but "
                f"{other.shape!r:.60} and {other.code:.20} in {first.source}"
            )
    if file.step != first.step:
        raise mixed(f"{file.source} is of step {file.step}, but {first.source} of step {first.step}")


def mixed(text):
    """Returns the error for files that are not of one training and one step."""
    return CommandError(f"{text}; give the files that all ranks of one training saved in the same step")
