# SPDX-License-Identifier: Apache-2.0

"""The wire format: all that Python and the native library must have alike.

The library describes its own side (csrc/abi.cc), and `native_library.load` refuses one that differs. MindSpore is not
imported here: the commands need the numbers without it.
"""

from mindspore_offload.formats import ELEMENT_TYPES, MOMENT_FORMATS

# The columns of the coefficient tensor, which csrc/adam.h explains.
COLUMNS = (
    "learning_rate",
    "weight_decay",
    "decoupled_decay",
    "eps",
    "clip",
    "gradient_scale",
    "step",
    "skip",
    "beta1",
    "beta2",
    "nesterov",
)

# For each parameter of an update: its row of coefficients, its key for stochastic rounding, the index of its piece, and
# whether the device has clipped and decayed its gradient.
ROWS = ("coefficients", "key", "piece", "prepared")

# The inputs of an update. Each role is a list of tensors.
ROLES = ("coefficients", "rows", "parameter", "moment1", "moment2", "gradient", "master")

# The results of a launch, from 0.
STATUSES = ("ok", "count", "pointer", "type", "shape", "row", "memory", "decay", "unexpected")

# Elements of a block, the unit in which the global norm is summed. A piece of a shard is a multiple of it, so the norm
# has the same bits for any number of ranks.
BLOCK = 1024


def description():
    """Returns Python's side of the wire format, in the words of the library: values by entry."""
    entries = {
        "columns": COLUMNS,
        "rows": ROWS,
        "roles": ROLES,
        "statuses": STATUSES,
        "elements": ELEMENT_TYPES,
        "moments": MOMENT_FORMATS,
        "block": [BLOCK],
    }
    return {entry: " ".join(map(str, values)) for entry, values in entries.items()}


def difference(text):
    """Returns words about the first entry in which the library's `text` differs; None if there is none."""
    own, found = description(), dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    for entry in own | found:
        here, there = own.get(entry, "missing"), found.get(entry, "missing")
        if here != there:
            return f"{entry!r} is {there!r} in the library, but {here!r} in Python"
    return None
