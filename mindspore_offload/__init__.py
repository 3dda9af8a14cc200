# SPDX-License-Identifier: Apache-2.0

"""Adam and AdamW for MindSpore that keep their state in host memory and run the update on the host CPU.

The public names are imported when they are first used: ``python -m mindspore_offload doctor`` has to run, and to say
what is wrong, where MindSpore can't be imported.
"""

import importlib
from typing import TYPE_CHECKING

from mindspore_offload._version import __version__

if TYPE_CHECKING:
    from mindspore_offload.adam import AdamOffload
    from mindspore_offload.adamw import AdamWOffload
    from mindspore_offload.checkpoints.conversion import convert_checkpoint
    from mindspore_offload.compiled_graph import placement_report
    from mindspore_offload.planning.estimation import estimate

# The module of each public name. None may be named as a submodule is: importing that would take its place.
_MODULES = {
    "AdamOffload": "adam",
    "AdamWOffload": "adamw",
    "convert_checkpoint": "checkpoints.conversion",
    "estimate": "planning.estimation",
    "placement_report": "compiled_graph",
}

__all__ = ["AdamOffload", "AdamWOffload", "__version__", "convert_checkpoint", "estimate", "placement_report"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
