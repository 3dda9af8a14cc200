# SPDX-License-Identifier: Apache-2.0

"""Notices a checkpoint of another optimizer: its step count loads, but its moments have other names."""

import warnings

import numpy as np


class ForeignCheckpoint:
    """Warns once if a number of steps has been loaded, but all first moments are zero.

    Args:
        cls_name (str): The optimizer's class.
        global_step, beta1_power (Parameter): The states that count the steps.
        moment1 (Sequence[Parameter]): The first moments. They are searched for a number that is not zero, which with a
            checkpoint of ours is the first one.
    """

    def __init__(self, cls_name, global_step, beta1_power, moment1):
        # Not the optimizer: a reference cycle would keep its states until the garbage collector runs.
        self._cls_name, self._moment1, self._has_warned = cls_name, moment1, False
        self._global_step, self._beta1_power = global_step, beta1_power

    def __call__(self):
        """Checks the states, while a step is compiled."""
        was_loaded = self._global_step.was_loaded or self._beta1_power.was_loaded
        steps = int(self._global_step.asnumpy()[0])
        if self._has_warned or not was_loaded or (steps == 0 and self._beta1_power.asnumpy()[0] == 1):
            return
        if not any(moment.memory.reshape(-1).view(np.uint8).any() for moment in self._moment1):
            self._has_warned = True
            warnings.warn(
                f"For '{self._cls_name}', the moments are zero, although global_step is {steps}: if a checkpoint was "
                f"loaded, its moments have other names; convert it with mindspore_offload.convert_checkpoint.",
                UserWarning,
                stacklevel=2,
            )
