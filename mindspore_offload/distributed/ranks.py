# SPDX-License-Identifier: Apache-2.0

"""The ranks of a data-parallel training, and what has to be the same on all of them."""

import os
import zlib
from typing import NamedTuple

import numpy as np
from mindspore import ParameterTuple, Tensor, Type, bfloat16, context, float32, nn, ops
from mindspore.communication import get_group_size, get_rank

from mindspore_offload import host
from mindspore_offload.abi import COLUMNS
from mindspore_offload.distributed.cut_and_gather import Cut
from mindspore_offload.distributed.pieces import Piece
from mindspore_offload.errors import refuse
from mindspore_offload.mindspore_private import hold, is_communicating, own_cells, own_parameters


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
    what, tolerates = "argument 'shard_states'", os.environ.get("MS_ENABLE_TFT", "")
    if any(feature in tolerates for feature in RESTORING):
        must = "be False if MindSpore restores a rank from another one, which has other pieces of the states"
        got = f"True while MS_ENABLE_TFT is {tolerates!r:.80}"
        refuse(RuntimeError, cls_name, what, must, got, f"leave {', '.join(RESTORING)} out of it")
    if not is_communicating():
        must = "be False if the communication between ranks is not initialized"
        cure = "call mindspore.communication.init() before making the optimizer, in a program that msrun starts"
        refuse(RuntimeError, cls_name, what, must, True, cure)
    return World(get_rank(), get_group_size())


# Each rank may have its own: the bits are the same.
_OWN = ("host_kernel", "writeback")


def check_same(cls_name, parameters, arguments):
    """Refuses an optimizer that is not the same on all ranks, on each of them.

    Args:
        cls_name (str): The optimizer's class.
        parameters (Iterable[Parameter]): Its parameters. Their values have to be the same, too, unless MindSpore is
            going to broadcast them.
        arguments (dict[str, object]): Its other arguments, by name: numbers, dtypes, Tensors, Cells, or lists of them.
    """
    alike = {
        "class": cls_name,
        "number of parameters": len(parameters),
        **{f"{of}s of the parameters": [getattr(each, of) for each in parameters] for of in ("name", "shape", "dtype")},
        **{f"argument '{name}'": described(value) for name, value in arguments.items() if name not in _OWN},
    }
    alike = {what: repr(value).encode() for what, value in alike.items()}
    _compare(cls_name, alike, "build the same net and optimizer on every rank")
    if not context.get_auto_parallel_context("parameter_broadcast"):
        cure = (
            "call mindspore.set_seed with the same number on every rank, load the same checkpoint, or call "
            "mindspore.set_auto_parallel_context(parallel_mode='data_parallel', parameter_broadcast=True)"
        )
        _compare(cls_name, {f"values of '{each.name}'": _bytes_of(each) for each in parameters}, cure)


def _compare(cls_name, values, cure):
    """Refuses values, by name, that differ between ranks."""
    own = np.array([zlib.crc32(value) for value in values.values()], np.uint32).view(np.int32)
    found = ops.AllGather()(Tensor(own)).asnumpy().reshape(-1, own.size)
    for what, column in zip(values, found.T):
        differs = column != column[0]
        if differs.any():
            must = f"have the same {what} if 'shard_states' is True"
            got = f"others on rank {differs.argmax()} than on rank 0"
            refuse(ValueError, cls_name, "optimizers of all ranks", must, got, cure)


def described(value):
    """Returns an argument as values whose `repr` tells it from others; None for what has no numbers.

    A Cell, such as a schedule, becomes its class and its numbers. If something else makes it return other values on
    another rank, the step in which it does so is refused: see `SameStep`.
    """
    if isinstance(value, Tensor):
        return value.shape, value.dtype, _bytes_of(value)
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    if isinstance(value, nn.Cell):
        of_any_cell = vars(nn.Cell())
        parts = {**vars(value), **own_parameters(value), **own_cells(value)}
        numbers = {name: described(part) for name, part in parts.items() if name not in of_any_cell}
        return type(value).__qualname__, sorted(item for item in numbers.items() if item[1] is not None)
    if isinstance(value, (np.ndarray, np.number)):
        return value.tolist()
    return value if isinstance(value, (int, float, Type)) else None


def _bytes_of(parameter):
    """Returns the bytes of a Tensor."""
    if parameter.has_init:  # it has no values yet
        return b""
    is_bfloat16 = parameter.dtype == bfloat16  # which NumPy does not have
    return (parameter.astype(float32) if is_bfloat16 else parameter).asnumpy().tobytes()


# The parameters, evenly spread, and the first elements of each that the ranks compare in every step, with those of
# their gradients. Other weights and other data differ in nearly all elements.
SAMPLED, ELEMENTS = 4, 8


def comparison():
    """Returns the operation that compares what all ranks bring to a step."""
    operation = host.NativeOperation("SameStep", (1,), float32)
    operation.add_prim_attr("side_effect_mem", True)  # so it runs before all writes that follow
    return operation


class SameStep(nn.Cell):
    """Gathers and compares the numbers, settings, weights and gradients with which the ranks begin a step.

    It finds ranks that loaded checkpoints of different steps or trainings, ranks whose schedules differ, and gradients
    that nobody has reduced. One small AllGather in each step finds all of them, whenever they begin to differ. Every
    rank gets the same values, so all refuse the step.

    Args:
        parameters (Sequence[Parameter]): The optimizer's parameters.
        rows (int): The rows of the coefficient tensor.
    """

    def __init__(self, parameters, rows):
        super().__init__(auto_prefix=False)
        last = len(parameters) - 1
        self.sampled = tuple(sorted({i * last // (SAMPLED - 1) for i in range(SAMPLED)}))
        sizes = [min(ELEMENTS, parameters[i].size) for i in self.sampled]
        self.firsts = nn.CellList([Cut(Piece(0, 1, size, size)) for size in sizes], auto_prefix=False)
        hold(self, weights=ParameterTuple(parameters[i] for i in self.sampled))
        settings = 2 + rows * len(COLUMNS)
        self.sections = Tensor(np.array([1, settings, sum(sizes), sum(sizes)], np.int32))
        self.concat, self.gather = ops.Concat(), ops.AllGather()
        self.check = comparison()

    def construct(self, global_step, powers, coefficients, gradients):
        """Returns the coefficients, so that whatever needs them waits for the comparison."""
        on_host = host.concat((host.cast(global_step, float32), *powers, host.reshape(coefficients, (-1,))))
        weights = host.map_(_first_of, self.firsts, self.weights)
        samples = host.map_(_first_of, self.firsts, host.map_(ops.partial(host.pick, gradients), self.sampled))
        values = self.concat((on_host, *weights, *samples))
        # All gradients are reduced, by collectives of the user's, before ours begin.
        gathered = self.gather(ops.depend(values, gradients))
        return ops.depend(coefficients, self.check(gathered, self.sections))


def _first_of(first, tensor):
    return ops.cast(first(tensor), float32)
