# SPDX-License-Identifier: Apache-2.0

"""Notices a checkpoint of another optimizer: its step count loads, but its moments have other names."""

import numpy as np

from mindspore_offload.callers import warn


def notice_foreign(cls_name, global_step, beta1_power, moment1):
    """Warns if a number of steps has been loaded, but all first moments are zero.

    Args:
        cls_name (str): The optimizer's class.
        global_step, beta1_power (State): The states that count the steps.
        moment1 (Sequence[State]): The first moments. They are searched for a number that is not zero, which with a
            checkpoint of ours is the first one.
    """
    steps = int(global_step.asnumpy()[0])
    was_loaded = global_step.was_loaded or beta1_power.was_loaded
    if not was_loaded or (steps == 0 and beta1_power.asnumpy()[0] == 1):
        return
    if not any(moment.memory.reshape(-1).view(np.uint8).any() for moment in moment1):
        global_step.was_loaded = beta1_power.was_loaded = False  # warn once
        warn(
            f"For '{cls_name}', the moments are zero, although global_step is {steps}: if a checkpoint was "
            f"loaded, its moments have other names; convert it with mindspore_offload.convert_checkpoint."
        )
