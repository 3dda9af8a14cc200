# SPDX-License-Identifier: Apache-2.0

"""Calls the functions of the native library as MindSpore does."""

import ctypes

import numpy as np

from mindspore_offload import native_library
from mindspore_offload.abi import COLUMNS, STATUSES

GOOD = STATUSES.index("ok")


def coefficients(rows=1, **values):
    defaults = dict(learning_rate=0.1, beta1=0.9, beta2=0.999, eps=1e-8, clip=1, gradient_scale=1)
    row = {**defaults, **values}
    return np.array([[row.get(column, 0) for column in COLUMNS]] * rows, np.float32)


def call(function, pointers, shapes, types):
    count = len(pointers)
    arrays = [(ctypes.c_int64 * len(shape))(*shape) for shape in shapes]
    as_pointer = ctypes.POINTER(ctypes.c_int64)
    return native_library.load()[function](
        count,
        (ctypes.c_void_p * count)(*pointers),
        (ctypes.c_int * count)(*[len(shape) for shape in shapes]),
        (as_pointer * count)(*[ctypes.cast(array, as_pointer) for array in arrays]),
        (ctypes.c_char_p * count)(*[None if name is None else name.encode() for name in types]),
        None,
        None,
    )


def launch(arrays, null=None, dtypes=(), function="AdamInPlace"):
    """Calls a function with arrays. `dtypes` has, by index, those that are not what numpy calls them."""
    types = [dict(dtypes).get(i, str(array.dtype)) for i, array in enumerate(arrays)]
    pointers = [None if i == null else array.ctypes.data for i, array in enumerate(arrays)]
    return call(function, pointers, [array.shape for array in arrays], types)
