# SPDX-License-Identifier: Apache-2.0

"""Updates the parameters. There are two host operations, the modules `native` and `stock`, with the same functions:

``update(bucket, features, writeback)`` returns a Cell. Called with the coefficient tensor and all gradients of the
optimizer, it updates the states of its bucket, and writes the parameters as `writeback` says.

``norm(tensors)`` returns a Cell. Called with a tuple of gradients, it returns their global norm, float32 of shape (1,).
"""

import sys
import warnings

from mindspore import dtype as mstype
from mindspore import nn

from mindspore_offload import native_library
from mindspore_offload.states import buckets
from mindspore_offload.update import native, stock

HOST_KERNELS = ("auto", "native", "stock")

_warned = set()


def choose(host_kernel, cls_name, moment_dtype):
    """Returns the module that `host_kernel` ("auto", "native" or "stock") stands for on this machine.

    Raises:
        ValueError: If `host_kernel` is unknown, or is "stock" where moments are bfloat16.
        RuntimeError: If it is "native" and the native library can't be used. "auto" warns once and falls back to stock.
    """
    if host_kernel not in HOST_KERNELS:
        raise ValueError(
            f"For '{cls_name}', the argument 'host_kernel' must be one of {list(HOST_KERNELS)}, "
            f"but got {host_kernel!r}."
        )
    stochastic = moment_dtype != mstype.float32
    if stochastic and host_kernel == "stock":
        raise ValueError(
            f"For '{cls_name}', the argument 'moment_dtype' can be bfloat16 only with the native host operation, "
            f"because MindSpore's Adam has no stochastic rounding; use host_kernel='native'."
        )
    if host_kernel == "stock":
        return stock
    try:
        native_library.load()
        return native
    except native_library.NativeLibraryError as error:
        if stochastic:
            raise RuntimeError(
                f"For '{cls_name}', the argument 'moment_dtype' is bfloat16, which needs the native library, "
                f"but {error}."
            ) from error
        if host_kernel == "native":
            raise RuntimeError(
                f"For '{cls_name}', the argument 'host_kernel' is 'native', but {error}. "
                f"With host_kernel='stock' it runs on MindSpore's own, slower operations."
            ) from error
        _warn_once(f"'{cls_name}' uses MindSpore's own, slower operations, because {error}.")
        return stock


def cells(tensors, is_small, operation, features, writeback):
    """Returns the Cells that update all parameters: by the host operation, and the small ones on the device.

    Args:
        tensors (list[ParameterStates]): The parameters with their states.
        is_small (list[bool]): True for each parameter that is updated on the device.
        operation (module): `native` or `stock`.
        features (Features): The parts of the algorithm.
        writeback (str): "in_place" or "assign".
    """
    large, small = ([each for each, s in zip(tensors, is_small) if s == side] for side in (False, True))
    on_host = [operation.update(bucket, features, writeback) for bucket in buckets.cut(large)]
    on_device = [stock.update_on_device(bucket, features) for bucket in buckets.cut(small, start=len(large))]
    return nn.CellList([*on_host, *on_device], auto_prefix=False)


def _warn_once(message):
    """Warns at the line of the user's program that makes the optimizer, however many of our classes lie between."""
    if message not in _warned:
        _warned.add(message)
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mindspore_offload."):
            frame, level = frame.f_back, level + 1
        warnings.warn(message, RuntimeWarning, stacklevel=level)
