# SPDX-License-Identifier: Apache-2.0

"""The ranks of a data-parallel training, and what has to be the same on all of them."""

import zlib
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, context, nn, ops
from mindspore import dtype as mstype
from mindspore.communication import GlobalComm, get_group_size, get_rank


class Ranks(NamedTuple):
    """This process among those that train together.

    Attributes:
        rank (int): Its number, from 0.
        ranks (int): The number of processes.
    """

    rank: int
    ranks: int


ALONE = Ranks(0, 1)


def of_this_process(cls_name):
    """Returns the `Ranks` of this process.

    Raises:
        RuntimeError: If the communication between the ranks has not been initialized.
    """
    if not GlobalComm.INITED:
        raise RuntimeError(
            f"For '{cls_name}', the argument 'shard_states' can be True only where ranks communicate, but the "
            f"communication is not initialized; call mindspore.communication.init() before making the optimizer, in a "
            f"program that msrun starts."
        )
    return Ranks(get_rank(), get_group_size())


class _Gather(nn.Cell):
    """Returns the tensors of all ranks, one behind the other."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.gather = ops.AllGather()

    def construct(self, x):
        return self.gather(x)


def check_same(cls_name, count, parameters, arguments):
    """Refuses an optimizer that is not the same on all ranks, on each of them.

    Args:
        cls_name (str): The optimizer's class.
        count (int): The number of ranks.
        parameters (Iterable[Parameter]): Its parameters. Their values have to be the same, too, unless MindSpore is
            going to broadcast them.
        arguments (object): Whatever else has to be the same, with a `repr` that tells it from others.
    """
    alike = {
        "number of parameters": len(parameters),
        "names of the parameters": [each.name for each in parameters],
        "shapes of the parameters": [tuple(each.shape) for each in parameters],
        "dtypes of the parameters": [str(each.dtype) for each in parameters],
        "arguments": arguments,
    }
    gather = _Gather()
    for what, rank in _differing(gather, count, {what: repr(value).encode() for what, value in alike.items()}):
        raise ValueError(
            f"For '{cls_name}', the optimizers of all ranks must have the same {what} if 'shard_states' is True, but "
            f"those of rank {rank} are not those of rank 0; build the same net and optimizer on every rank."
        )
    if context.get_auto_parallel_context("parameter_broadcast"):
        return
    for name, rank in _differing(gather, count, {each.name: _bytes_of(each) for each in parameters}):
        raise ValueError(
            f"For '{cls_name}', the parameters must have the same values on all ranks if 'shard_states' is True, but "
            f"'{name}' of rank {rank} is not that of rank 0; call mindspore.set_seed with the same number on every "
            f"rank, load the same checkpoint, or call "
            f"mindspore.set_auto_parallel_context(parallel_mode='data_parallel', parameter_broadcast=True)."
        )


def _differing(gather, count, values):
    """Yields the names of values that differ between ranks, with the first rank that has another one than rank 0."""
    own = np.array([zlib.crc32(value) for value in values.values()], np.uint32).view(np.int32)
    found = gather.compile_and_run(Tensor(own)).asnumpy().reshape(count, -1)
    for name, column in zip(values, found.T):
        differs = column != column[0]
        if differs.any():
            yield name, int(differs.argmax())


def _bytes_of(parameter):
    if parameter.has_init:  # it has no values yet
        return b""
    is_bfloat16 = parameter.dtype == mstype.bfloat16  # which NumPy does not have
    return (parameter.astype(mstype.float32) if is_bfloat16 else parameter).asnumpy().tobytes()
