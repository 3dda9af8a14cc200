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

# How many bytes into its memory a large state starts. The system gives memory in whole pages, so all states of a tensor
# would lie at the same place of a page, and an update would walk through the same sets of the first cache in all of
# them at once. Zen CPUs tell the lines of a set apart by a hash of the address, and where that agrees too, as it does
# for memories that are a multiple of 256 MiB apart, they throw each other out: an update took 1.4 to 3 times as long.
START = {"moment1": 1024, "moment2": 2048, "master": 3072}


def zero_pages(parameters, prefix):
    """For each of `parameters`, a float32 Parameter of zeros in its shape, named ``<prefix>.<name>``.

    `prefix` is one of `START`. The zeros are pages that the operating system hands out on first touch. An
    initializer would write every byte now, and for the moments of a large net that takes longer than compiling it.
    """
    return ParameterTuple(_zero_state(parameter, prefix) for parameter in parameters)


def _zero_state(parameter, prefix):
    state = Parameter(
        initializer("zeros", parameter.shape, mstype.float32),
        name=f"{prefix}.{parameter.name}",
        requires_grad=parameter.requires_grad,
        layerwise_parallel=parameter.layerwise_parallel,
        parallel_optimizer=parameter.parallel_optimizer,
    )
    # from_numpy shares the array's memory, where the constructor of Parameter would copy (and so touch) it.
    state.set_data(Tensor.from_numpy(_zeros(parameter.shape, START[prefix])))
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


def _zeros(shape, start):
    """A float32 array of zeros that has no memory yet, and will get it in huge pages where the system has them.

    It is `start` bytes into that memory.

    A large model touches gigabytes of states in its first step. In pages of 4 KiB, the faults alone take seconds.
    """
    size = math.prod(shape) * np.dtype(np.float32).itemsize
    if size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, np.float32)
    memory = mmap.mmap(-1, start + size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32, offset=start).reshape(shape)


def masters(parameters):
    """The float32 weights of each parameter: itself, or the master, named ``master.<name>``, of a 16-bit one.

    Masters begin as zeros too. That is not what the parameter is rounded from, unless it is zero, so in the first step
    it becomes its master, as any parameter that was changed from outside.
    """
    return tuple(p if p.dtype == mstype.float32 else _zero_state(p, "master") for p in parameters)


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
