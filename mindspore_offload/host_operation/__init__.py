"""The host operation: Adam on one bucket of parameters, by one of two makers with the same interface.

A maker is a Cell class: ``Maker(bucket, use_locking, use_nesterov, unscale)``. Calling it with the coefficient tensor
and the gradients of the *whole* optimizer updates the parameters and moments of its bucket.
"""

import warnings

from mindspore import context

from mindspore_offload import native_library
from mindspore_offload.host_operation.native import NativeUpdate
from mindspore_offload.host_operation.stock import StockUpdate

HOST_KERNELS = ("auto", "native", "stock")

_warned = set()


def choose(host_kernel, cls_name):
    """The maker that `host_kernel` ("auto", "native" or "stock") asks for on this machine and device target."""
    if host_kernel not in HOST_KERNELS:
        raise ValueError(
            f"For '{cls_name}', the argument 'host_kernel' must be one of {list(HOST_KERNELS)}, "
            f"but got {host_kernel!r}."
        )
    if host_kernel == "stock":
        return StockUpdate

    device_target = context.get_context("device_target")
    if device_target != "CPU":
        if host_kernel == "auto":
            return StockUpdate
        raise ValueError(
            f"For '{cls_name}', the argument 'host_kernel' can be 'native' only where the device target is 'CPU', "
            f"but it is '{device_target}'; use 'auto' or 'stock'."
        )
    try:
        native_library.load()
    except native_library.NativeLibraryError as error:
        if host_kernel == "native":
            raise RuntimeError(
                f"For '{cls_name}', the argument 'host_kernel' is 'native', but {error}. "
                f"With host_kernel='stock' it runs on MindSpore's own, slower operations."
            ) from error
        _warn_once(f"'{cls_name}' uses MindSpore's own, slower operations, because {error}.")
        return StockUpdate
    return NativeUpdate


def _warn_once(message):
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
