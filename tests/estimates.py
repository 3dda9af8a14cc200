# SPDX-License-Identifier: Apache-2.0

"""A net and readers of results, for the tests of ``estimate``."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindspore_offload.commands import main


class Squares(nn.Cell):
    """A net of two weights."""

    def __init__(self, dtype):
        super().__init__()
        self.first = Parameter(Tensor(np.ones((1000, 30)), dtype), name="first")
        self.second = Parameter(Tensor(np.ones((1000, 30)), dtype), name="second")

    def construct(self, inputs):
        return (self.first**2 * inputs + self.second**2 * inputs).astype(ms.float32).sum()


def states_of(optimizer):
    updated = {parameter.name for parameter in optimizer.parameters}
    return sum(parameter.nbytes for parameter in optimizer.get_parameters() if parameter.name not in updated)


def printed_rows(capsys, *options):
    """Runs the command. Returns its output and, split into cells, the rows of AdamOffload."""
    assert main(["estimate", "--host-gb-s=40", *options]) == 0
    printed = capsys.readouterr().out
    return printed, [line.split() for line in printed.splitlines() if line.startswith("AdamOffload")]
