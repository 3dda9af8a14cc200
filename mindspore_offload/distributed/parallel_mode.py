# SPDX-License-Identifier: Apache-2.0

"""Semi-automatic and automatic parallel, in which MindSpore cuts parameters and states while it compiles.

Look at the mode where a step is compiled. `AutoParallel` sets it only then, after the optimizer was made.
"""

import mindspore
from mindspore import context

from mindspore_offload.errors import refuse
from mindspore_offload.formats import MOMENT_FORMATS, one_of

_WITHOUT_CODES = [getattr(mindspore, name) for name, row in MOMENT_FORMATS.items() if not row.has_codes]

# The arguments that need whole gradients or whole states: the value that turns each off, and what to do instead.
_NEED_WHOLE = {
    "max_grad_norm": (None, "clip in the training cell (in a MindFormers YAML: use_clip_grad: True)"),
    "skip_nonfinite": (False, "skip such steps in the training cell, as nn.TrainOneStepWithLossScaleCell does"),
    "shard_states": (False, "set enable_parallel_optimizer=True, which cuts the states with the parameters"),
    "moment_dtype": (one_of(map(str, _WITHOUT_CODES)), "MindSpore can't cut blocks of codes"),
}


def check_arguments(cls_name, given):
    """Refuses arguments, by name, that would be wrong where each rank has only slices."""
    mode = context.get_auto_parallel_context("parallel_mode")
    if mode not in ("semi_auto_parallel", "auto_parallel") and not has_stages():
        return
    for name, (off, cure) in _NEED_WHOLE.items():
        if given[name] not in (None, False, *_WITHOUT_CODES):
            where = f"the parallel mode '{mode}', where each rank has only its slices of gradients and states"
            refuse(RuntimeError, cls_name, f"argument '{name}'", f"be {off} in {where}", given[name], cure)


def has_stages():
    """Returns True if a pipeline divides the net into stages."""
    return context.get_auto_parallel_context("pipeline_stages") > 1
