# SPDX-License-Identifier: Apache-2.0

"""Updates the parameters. There are two host operations, the modules `native` and `stock`, with the same names:

``update(bucket, features, writeback)`` returns a Cell. Called with the coefficient tensor and all gradients of the
optimizer, it updates the states of its bucket, and writes the parameters as `writeback` says.

``Norm(slots)`` is a Cell. Called with a tuple of gradients, it returns their global norm, float32 of shape (1,).
"""

import functools
import itertools

from mindspore import nn

from mindspore_offload import native_library
from mindspore_offload.errors import refuse, warn
from mindspore_offload.formats import moment_format
from mindspore_offload.states import buckets
from mindspore_offload.update import native, stock


def choose(host_kernel, cls_name, moment_dtype, shard_states):
    """Returns the module that `host_kernel` ("auto", "native" or "stock") stands for on this machine.

    Raises:
        ValueError: If `host_kernel` is "stock" where moments are rounded or states are sharded.
        RuntimeError: If it is "native" and the native library can't be used. "auto" warns once and falls back to stock.
    """
    moments = moment_format(moment_dtype)
    needs = "'shard_states' is True" if shard_states else ""
    if moments.is_stochastic:
        needs = f"'moment_dtype' is {moments.name}"
    if host_kernel == "stock":
        if needs:
            got = "'stock': MindSpore's operations neither update a piece of a state nor round stochastically"
            refuse(ValueError, cls_name, "argument 'host_kernel'", f"be 'auto' or 'native' if {needs}", got)
        return stock
    try:
        native_library.load()
        return native
    except native_library.NativeLibraryError as error:
        if host_kernel == "auto" and not needs:
            _warn_once(f"'{cls_name}' uses MindSpore's own, slower operations, because {error}.")
            return stock
        needs = needs or "'host_kernel' is 'native'"
        raise RuntimeError(
            f"For '{cls_name}', the argument {needs}, which needs the native library, but {error}. MindSpore's own, "
            f"slower operations do without it (host_kernel='stock'), on whole states of float32."
        ) from error


def cells(slots, operation, features, writeback, bound=None):
    """Returns the Cells that update all parameters, and the order in which these want the gradients.

    The host operation updates buckets whose parameters are whole, and buckets of one dtype of which this rank has
    pieces. The device updates the parameters whose states are there. The order is empty if it is that of the
    parameters.

    Args:
        slots (list[ParameterStates]): The parameters with their states.
        operation (module): `native` or `stock`.
        features (Features): The parts of the algorithm.
        writeback (str): "in_place" or "assign".
        bound (Optional[float]): The largest bucket, in bytes of parameters. None: `buckets.BUCKET_BYTES`.
    """
    order = sorted(range(len(slots)), key=lambda i: _kind(slots[i]))
    updates, start, on_host = [], 0, functools.partial(operation.update, writeback=writeback)
    for (is_on_device, *_), run in itertools.groupby((slots[i] for i in order), key=_kind):
        run = list(run)
        new_update = stock.update_on_device if is_on_device else on_host
        updates += [new_update(bucket, features) for bucket in buckets.cut(run, start, bound)]
        start += len(run)
    is_sorted = order == list(range(len(slots)))
    return nn.CellList(updates, auto_prefix=False), () if is_sorted else tuple(order)


def _kind(slot):
    """Returns a key that is equal for parameters that a bucket may hold."""
    return slot.is_on_device, slot.piece is None, str(slot.parameter.dtype) if slot.piece else ""


@functools.cache
def _warn_once(message):
    warn(message, RuntimeWarning)
