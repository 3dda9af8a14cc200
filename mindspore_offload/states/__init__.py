# SPDX-License-Identifier: Apache-2.0

"""The states of an optimizer: one parameter's tensors, the memory they lie in, and the buckets they are updated in."""

from dataclasses import dataclass
from typing import Optional

import numpy as np
from mindspore import Parameter, Tensor
from mindspore import dtype as mstype

from mindspore_offload.states import memory
from mindspore_offload.states.state import clone_of, new_state


@dataclass(frozen=True)
class ParameterStates:
    """A parameter and what its update needs.

    Attributes:
        parameter (Parameter): The parameter, of dtype float32, float16 or bfloat16.
        moment1, moment2 (Parameter): Its moments, float32 or bfloat16 in its shape.
        master (Optional[Parameter]): The float32 master of a 16-bit parameter, in its shape. None for float32.
        row (int): Its row of the coefficient tensor.
        has_decay (bool): True if that row has a weight decay.
    """

    parameter: Parameter
    moment1: Parameter
    moment2: Parameter
    master: Optional[Parameter]
    row: int
    has_decay: bool

    @property
    def weight(self):
        """The float32 weight that Adam updates: the master, or the parameter itself."""
        return self.parameter if self.master is None else self.master


def allocate(parameter, moment_dtype, row, has_decay):
    """Returns the `ParameterStates` of a parameter, with states of zeros that have no memory before the first step.

    They are named ``moment1.<name>``, ``moment2.<name>`` and, for a 16-bit parameter, ``master.<name>``.

    Masters start as zeros. The first step sees that a parameter is not its master rounded, takes it as changed from
    outside, and copies it into the master.
    """
    dtypes = {"moment1": moment_dtype, "moment2": moment_dtype}
    if parameter.dtype != mstype.float32:
        dtypes["master"] = mstype.float32
    arrays = memory.zeros(parameter.shape, [Tensor(0, dtype).asnumpy().dtype for dtype in dtypes.values()])
    states = {prefix: clone_of(parameter, prefix, array) for prefix, array in zip(dtypes, arrays)}
    return ParameterStates(
        parameter, states["moment1"], states["moment2"], states.get("master"), row=row, has_decay=has_decay
    )


def counter(name, value, dtype):
    """Returns a state of shape (1,) with a single number."""
    return new_state(name, np.array([value], dtype))
