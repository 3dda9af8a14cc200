# SPDX-License-Identifier: Apache-2.0

"""Notices a checkpoint of another optimizer: its step count loads, but its moments have other names."""

import warnings

import numpy as np


def warn_of_foreign_checkpoint(cls_name, global_step, beta1_power, moments):
    """Warns if steps have been counted, but all first moments are zero.

    It looks at them until it finds one that is not zero, which with a checkpoint of ours is the first one.
    """
    steps = int(global_step.asnumpy()[0])
    if steps == 0 and beta1_power.asnumpy()[0] == 1:
        return
    if not any(moment.memory.reshape(-1).view(np.uint8).any() for moment in moments):
        warnings.warn(
            f"For '{cls_name}', the moments are zero, although global_step is {steps}: if a checkpoint was "
            f"loaded, its moments have other names; convert it with mindspore_offload.convert_checkpoint.",
            UserWarning,
            stacklevel=2,
        )
