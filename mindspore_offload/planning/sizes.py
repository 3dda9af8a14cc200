# SPDX-License-Identifier: Apache-2.0

"""Finds the sizes of a model's parameters, from a net or from a checkpoint, without memory for their values."""

import collections
import re

from mindspore_offload.checkpoints.merge import COUNTERS
from mindspore_offload.checkpoints.reading import opened
from mindspore_offload.distributed.pieces import STATE
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import user_net
from mindspore_offload.planning.footprint import Size

# Names in a training checkpoint that are no weights: states of optimizers, and statistics of normalization layers.
NO_WEIGHT = re.compile(rf"(moments?[12]|master|adam_[mv])\..*|{COUNTERS}|{STATE}|.*moving_(mean|variance)", re.DOTALL)


def of_net(spec):
    """Returns the sizes of the trained parameters of the net that ``module:function`` returns."""
    return [Size.of(parameter) for parameter in user_net.build(spec).trainable_params()]


def of_checkpoint(path):
    """Returns the sizes of the weights in a .ckpt or .safetensors file, and how many others there are by dtype."""
    with opened(path, "--checkpoint") as source:
        found = [Size(entry.name, entry.size, entry.dtype, len(entry.shape)) for entry in source.entries.values()]
    tensors = [size for size in found if size.size and not NO_WEIGHT.fullmatch(size.name)]
    weights = [size for size in tensors if size.dtype in ELEMENT_TYPES]
    if not weights:
        raise CommandError(f"--checkpoint {path!r} has no weights of {', '.join(ELEMENT_TYPES)}; give one that has")
    return weights, dict(collections.Counter(size.dtype for size in tensors if size.dtype not in ELEMENT_TYPES))
