# SPDX-License-Identifier: Apache-2.0

"""The ranks of a data-parallel training, and what has to be the same on all of them."""

import functools
import os
import zlib
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, context, nn, ops
from mindspore import dtype as mstype
from mindspore.communication import get_group_size, get_rank

from mindspore_offload.mindspore_private import compile_and_run, is_communicating, own_cells, own_parameters


class World(NamedTuple):
    """This process among those that train together.

    Attributes:
        rank (int): Its number, from 0.
        size (int): The number of processes.
    """

    rank: int
    size: int


ALONE = World(0, 1)

# The features of MindSpore's fault tolerance that take each rank of a data-parallel training for a copy of the others.
RESTORING = ("TTP:1", "UCE:1", "ARF:1", "HCCE:1")


def of_this_process(cls_name):
    """Returns the `World` of this process.

    Raises:
        RuntimeError: If the communication between the ranks has not been initialized, or if MindSpore would restore a
            rank from another one.
    """
    tolerates = os.environ.get("MS_ENABLE_TFT", "")
    if any(feature in tolerates for feature in RESTORING):
        raise RuntimeError(
            f"For '{cls_name}', the argument 'shard_states' can't be True if the environment variable MS_ENABLE_TFT is "
            f"{tolerates!r:.80}, because MindSpore then restores a rank from another one, which has other pieces of "
            f"the states; leave {', '.join(RESTORING)} out of it."
        )
    if not is_communicating():
        raise RuntimeError(
            f"For '{cls_name}', the argument 'shard_states' can be True only where ranks communicate, but the "
            f"communication is not initialized; call mindspore.communication.init() before making the optimizer, in a "
            f"program that msrun starts."
        )
    return World(get_rank(), get_group_size())


class _Gather(nn.Cell):
    """Returns the tensors of all ranks, one behind the other."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.gather = ops.AllGather()

    def construct(self, x):
        return self.gather(x)


@functools.cache
def _gather():
    """Returns the Cell that gathers. There is one, because each new one would be compiled again."""
    return _Gather()


def check_same(cls_name, count, parameters, arguments):
    """Refuses an optimizer that is not the same on all ranks, on each of them.

    Args:
        cls_name (str): The optimizer's class.
        count (int): The number of ranks.
        parameters (Iterable[Parameter]): Its parameters. Their values have to be the same, too, unless MindSpore is
            going to broadcast them.
        arguments (dict[str, object]): Its other arguments, by name: numbers, text, Tensors, Cells, or lists of them.
    """
    alike = {
        "class": cls_name,
        "number of parameters": len(parameters),
        "names of the parameters": [each.name for each in parameters],
        "shapes of the parameters": [tuple(each.shape) for each in parameters],
        "dtypes of the parameters": [str(each.dtype) for each in parameters],
        **{f"argument '{name}'": described(value) for name, value in arguments.items()},
    }
    for what, rank in _differing(count, {what: repr(value).encode() for what, value in alike.items()}):
        raise ValueError(
            f"For '{cls_name}', the optimizers of all ranks must have the same {what} if 'shard_states' is True, but "
            f"those of rank {rank} are not those of rank 0; build the same net and optimizer on every rank."
        )
    if context.get_auto_parallel_context("parameter_broadcast"):
        return
    for name, rank in _differing(count, {each.name: _bytes_of(each) for each in parameters}):
        raise ValueError(
            f"For '{cls_name}', the parameters must have the same values on all ranks if 'shard_states' is True, but "
            f"'{name}' of rank {rank} is not that of rank 0; call mindspore.set_seed with the same number on every "
            f"rank, load the same checkpoint, or call "
            f"mindspore.set_auto_parallel_context(parallel_mode='data_parallel', parameter_broadcast=True)."
        )


def described(value):
    """Returns an argument as values whose `repr` tells it from others.

    A Cell, such as a schedule, becomes its class and its numbers. If something else makes it return other values on
    another rank, the step in which it does so is refused: see `mindspore_offload.distributed.same_step`.
    """
    if isinstance(value, Tensor):
        return "Tensor", tuple(value.shape), str(value.dtype), _bytes_of(value)
    if isinstance(value, (list, tuple, nn.CellList)):
        return [described(each) for each in value]
    if isinstance(value, nn.Cell):
        of_any_cell = vars(nn.Cell())
        parts = {**vars(value), **own_parameters(value), **own_cells(value)}
        numbers = {name: described(part) for name, part in parts.items() if name not in of_any_cell and _counts(part)}
        return type(value).__qualname__, sorted(numbers.items())
    if isinstance(value, (np.ndarray, np.number)):
        return value.tolist()
    return value if isinstance(value, (int, float, str)) else type(value).__qualname__


def _counts(part):
    """Returns True for an attribute of a Cell that may have numbers."""
    return isinstance(part, (int, float, list, tuple, np.ndarray, np.number, Tensor, nn.Cell))


def _differing(count, values):
    """Yields the names of values that differ between ranks, with the first rank that has another one than rank 0."""
    own = np.array([zlib.crc32(value) for value in values.values()], np.uint32).view(np.int32)
    found = compile_and_run(_gather(), Tensor(own)).asnumpy().reshape(count, -1)
    for name, column in zip(values, found.T):
        differs = column != column[0]
        if differs.any():
            yield name, int(differs.argmax())


def _bytes_of(parameter):
    """Returns the bytes of a Tensor."""
    if parameter.has_init:  # it has no values yet
        return b""
    is_bfloat16 = parameter.dtype == mstype.bfloat16  # which NumPy does not have
    return (parameter.astype(mstype.float32) if is_bfloat16 else parameter).asnumpy().tobytes()
