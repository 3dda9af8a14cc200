# SPDX-License-Identifier: Apache-2.0

"""Runs MindFormers' Trainer on a YAML file:  python trainer.py config.yaml

Only the overflow check is replaced: it is an operation of Ascend.
"""

import sys

import mindformers
from mindformers.core.context import build_context
from mindformers.tools.register import MindFormerConfig
from mindformers.utils.file_utils import set_output_path
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import Tensor, ops

import mindspore_offload.mindformers  # noqa: F401, it registers the optimizers

NO_OVERFLOW = Tensor(False)


def get_overflow_status(self, status, compute_output):
    return ops.depend(NO_OVERFLOW, compute_output)


if __name__ == "__main__":
    MFTrainOneStepCell.get_overflow_status = get_overflow_status
    config = MindFormerConfig(sys.argv[1])
    set_output_path(config.output_dir)
    build_context(config)
    mindformers.Trainer(config).train()
