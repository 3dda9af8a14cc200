"""Adam for MindSpore with its states and its arithmetic in host memory."""

from mindspore_offload._version import __version__
from mindspore_offload.adam import AdamOffload
from mindspore_offload.placement import placement_report

__all__ = ["AdamOffload", "__version__", "placement_report"]
