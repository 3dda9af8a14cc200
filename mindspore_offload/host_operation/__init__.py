"""The host operation: Adam on one bucket of parameters, by one of two makers with the same interface.

``update(bucket, algorithm)`` is a Cell. Calling it with the coefficient tensor and the gradients of the *whole*
optimizer updates the states of its bucket, and its parameters by the writeback that was chosen with it.
``norm(gradients)``, for that number of gradients, is a Cell that gives their global norm.
"""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

from mindspore import context

from mindspore_offload import native_library
from mindspore_offload.host_operation.native import NativeAssign, NativeInPlace, NativeNorm
from mindspore_offload.host_operation.stock import StockNorm, StockUpdate

HOST_KERNELS = ("auto", "native", "stock")

_warned = set()


class HostOperation(NamedTuple):
    """What a host operation is made by."""

    update: Callable
    norm: Callable


def choose(host_kernel, writeback, cls_name):
    """The makers that `host_kernel` ("auto", "native" or "stock") asks for, on this machine and device target.

    `writeback` is "in_place" or "assign".
    """
    if host_kernel not in HOST_KERNELS:
        raise ValueError(
            f"For '{cls_name}', the argument 'host_kernel' must be one of {list(HOST_KERNELS)}, "
            f"but got {host_kernel!r}."
        )
    if host_kernel == "native" or (host_kernel == "auto" and context.get_context("device_target") == "CPU"):
        try:
            native_library.load()
            return HostOperation(NativeInPlace if writeback == "in_place" else NativeAssign, NativeNorm)
        except native_library.NativeLibraryError as error:
            if host_kernel == "native":
                raise RuntimeError(
                    f"For '{cls_name}', the argument 'host_kernel' is 'native', but {error}. "
                    f"With host_kernel='stock' it runs on MindSpore's own, slower operations."
                ) from error
            _warn_once(f"'{cls_name}' uses MindSpore's own, slower operations, because {error}.")
    return HostOperation(functools.partial(StockUpdate, writeback=writeback), StockNorm)


def _warn_once(message):
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
