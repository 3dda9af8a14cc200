"""Adam for MindSpore with its states and its arithmetic in host memory."""

from mindspore_offload._version import __version__
from mindspore_offload.adam import AdamOffload
from mindspore_offload.adamw import AdamWOffload
from mindspore_offload.conversion import convert_adam_weight_decay
from mindspore_offload.placement import placement_report

__all__ = ["AdamOffload", "AdamWOffload", "__version__", "convert_adam_weight_decay", "placement_report"]
