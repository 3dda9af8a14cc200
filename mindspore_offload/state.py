"""The states of an optimizer: how their memory is obtained, and how they are cut into buckets."""

import contextlib
import math
import mmap
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor
from mindspore import dtype as mstype
from mindspore.common.initializer import initializer

# What one native operation updates at most, in bytes of parameters. The gradients of a bucket live until its operation
# has run, so this bounds how many of them wait; larger buckets only make fewer launches.
BUCKET_BYTES = 32 * 1024 * 1024

HUGE_PAGE = 2 * 1024 * 1024  # bytes, on x86-64 and on most aarch64 kernels; a smaller state could not use one

# How far a large state begins behind the end of the one before it, in bytes: pages, and a quarter of one. An update
# walks through all states of a parameter at once. Zen CPUs tell the lines of a set of their first cache apart by a hash
# of bits 12 to 27 of the address; memories that are a multiple of 256 MiB apart, as those of nets with sizes of powers
# of two easily are, have the same and throw each other out: an update took twice as long. The quarter puts them into
# different sets, which also keeps other CPUs from taking a load for one of what has just been stored.
GAP = 21 * 4096 + 1024


def allocate(parameters):
    """The states in the shapes of `parameters`, float32 Parameters of zeros.

    They are named ``moment1.<name>``, ``moment2.<name>`` and, of a 16-bit parameter, ``master.<name>``.

    The zeros are pages that the operating system hands out on first touch. An initializer would write every byte now,
    and for the moments of a large net that takes longer than compiling it. The threads that update a part touch it.

    A master of zeros is not what its parameter is rounded from, unless that is zero, so in the first step the parameter
    becomes its master, as any that was changed from outside.

    Returns:
        The first and the second moments, two ParameterTuples; and a tuple of the float32 weights: the parameter itself,
        or its master.
    """
    moment1, moment2, weights = [], [], []
    for parameter in parameters:
        prefixes = ["moment1", "moment2"] + ["master"] * (parameter.dtype != mstype.float32)
        states = [
            _new_state(parameter, prefix, zeros)
            for prefix, zeros in zip(prefixes, _zeros(parameter.shape, len(prefixes)))
        ]
        moment1.append(states[0])
        moment2.append(states[1])
        weights.append(states[2] if len(states) == 3 else parameter)
    return ParameterTuple(moment1), ParameterTuple(moment2), tuple(weights)


def _new_state(parameter, prefix, zeros):
    state = Parameter(
        initializer("zeros", parameter.shape, mstype.float32),
        name=f"{prefix}.{parameter.name}",
        requires_grad=parameter.requires_grad,
        layerwise_parallel=parameter.layerwise_parallel,
        parallel_optimizer=parameter.parallel_optimizer,
    )
    # from_numpy shares the array's memory, where the constructor of Parameter would copy (and so touch) it.
    state.set_data(Tensor.from_numpy(zeros))
    return state


def beta_power(name):
    """The Parameter of shape (1,) that holds a power of beta; 1.0 before the first step.

    `nn.Adam` saves its powers with the shape (), which `load_param_into_net` would refuse. This one takes both.
    """
    parameter = Parameter(Tensor([1.0], mstype.float32), name=name)
    # Parameter makes an instance of a class of its own choice, so a subclass can only be given afterwards.
    parameter.__class__ = type(Parameter.__name__, (_BetaPower, type(parameter)), {})
    return parameter


class _ShapeOfOne(tuple):
    """(1,), which is also equal to ()."""

    __slots__ = ()

    def __eq__(self, other):
        return other in ((1,), ())

    def __ne__(self, other):
        return not self == other

    __hash__ = tuple.__hash__


class _BetaPower:
    """Added to the class of a Parameter of shape (1,): what `load_param_into_net` asks and calls of it."""

    @property
    def data(self):
        return self

    @property
    def shape(self):
        return _ShapeOfOne((1,))

    def set_data(self, data, slice_shape=False):
        if isinstance(data, Tensor) and data.ndim == 0:
            data = data.reshape((1,))
        return super().set_data(data, slice_shape)


def _zeros(shape, count):
    """`count` float32 arrays of zeros that have no memory yet, and will get it in huge pages where the system has them.

    A large model touches gigabytes of states in its first step. In pages of 4 KiB, the faults alone take seconds.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    if size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return [np.zeros(shape, np.float32) for _ in range(count)]
    distance = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE + GAP
    memory = mmap.mmap(-1, count * distance, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    elements = math.prod(shape)
    starts = [GAP + i * distance for i in range(count)]
    return [np.frombuffer(memory, np.float32, elements, start).reshape(shape) for start in starts]


@dataclass(frozen=True)
class Bucket:
    """Parameters that one native operation updates; their gradients are those from `start` to `stop`."""

    start: int
    stop: int
    parameters: tuple
    weights: tuple  # of each parameter, itself if it is float32, else its master
    moment1: tuple
    moment2: tuple
    rows: tuple  # of each parameter, the row of the coefficient tensor
    decays: tuple  # of each parameter, whether that row has a weight decay


def buckets(tensors, start=0, limit=BUCKET_BYTES):
    """Cut parameters, each with what belongs to it, into buckets: the last parameters first.

    A bucket has at most `limit` bytes of parameters, or is a single larger parameter. Backward passes yield the
    gradients of the last parameters first: in that order a gradient can be freed soon after it has been computed.

    Args:
        tensors (list[tuple]): Of each parameter the fields of a `Bucket` from `parameters` on.
        start (int): Where the gradient of the first of them is.
    """
    return [
        Bucket(start + first, start + stop, *zip(*tensors[first:stop]))
        for first, stop in _runs([parameter.nbytes for parameter, *_ in tensors], limit)
    ]


def _runs(sizes, limit):
    """The bounds of runs of neighbours whose sizes sum to at most `limit`, or that are single, from the end."""
    stop, held = len(sizes), 0
    for i in reversed(range(len(sizes))):
        if held and held + sizes[i] > limit:
            yield i + 1, stop
            stop, held = i + 1, 0
        held += sizes[i]
    if stop:
        yield 0, stop
