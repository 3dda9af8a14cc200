# SPDX-License-Identifier: Apache-2.0

"""Registers the optimizers with MindFormers 2.x, so that its YAML files can name them.

Importing this module registers them, and imports MindFormers. Nothing else in this package does. MindFormers itself
imports it for ``auto_register``, and may copy the file for that, so its imports are absolute.
"""

import mindspore
from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

import mindspore_offload
from mindspore_offload.errors import refuse


class _FromYaml:
    """Mixed into an optimizer. Accepts what a YAML file has in the place of Python's values."""

    def __init__(self, params, learning_rate=1e-3, *, betas=None, moment_dtype="float32", **arguments):
        if betas is not None:
            if not isinstance(betas, (list, tuple)) or len(betas) != 2:
                must, cure = "be a list of two floats", "write for example [0.9, 0.95]"
                refuse(ValueError, type(self).__name__, "argument 'betas'", must, f"{betas!r:.60}", cure)
            arguments.update(beta1=betas[0], beta2=betas[1])
        if isinstance(moment_dtype, str):
            moment_dtype = getattr(mindspore, moment_dtype, moment_dtype)
        super().__init__(params, learning_rate, moment_dtype=moment_dtype, **arguments)


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamOffload(_FromYaml, mindspore_offload.AdamOffload):
    """`mindspore_offload.AdamOffload`, which also takes `betas`, and the name of a `moment_dtype`."""


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamWOffload(_FromYaml, mindspore_offload.AdamWOffload):
    """`mindspore_offload.AdamWOffload`, which also takes `betas`, and the name of a `moment_dtype`."""
