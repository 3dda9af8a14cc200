# SPDX-License-Identifier: Apache-2.0

"""The file that `auto_register` in a YAML file of MindFormers names. MindFormers copies and imports it."""

from mindspore_offload.mindformers import AdamOffload, AdamWOffload

__all__ = ["AdamOffload", "AdamWOffload"]
