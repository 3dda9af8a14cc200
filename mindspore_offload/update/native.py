# SPDX-License-Identifier: Apache-2.0

"""The native host operation: one launch of our own kernel a bucket."""

import numpy as np
from mindspore import ParameterTuple, Tensor, float32, nn, ops

from mindspore_offload import host
from mindspore_offload.abi import BLOCK, ROLES
from mindspore_offload.distributed.cut_and_gather import Cut, Gather, gather_of
from mindspore_offload.mindspore_private import hold
from mindspore_offload.step.inputs import WRITTEN, FreshValue
from mindspore_offload.update.decay import ClipAndDecay
from mindspore_offload.update.writeback import Write, on_device


def update(bucket, features, writeback):
    """Returns the Cell that updates a bucket. See `mindspore_offload.update`."""
    is_sharded = bucket.slots[0].piece is not None
    return _InPlace(bucket) if writeback == "in_place" and not is_sharded else _Assign(bucket, features)


class _Update(nn.Cell):
    """Launches the kernel on a bucket.

    Args:
        bucket (Bucket): The bucket.
        is_prepared (Sequence[bool]): True for each parameter whose gradient has been clipped and decayed.
        function (str): The function of the library.
        parameters (list[Parameter]): The parameters that the function reads.
        written (tuple[str]): The roles of the inputs that it writes.
        shapes, dtypes: Those of its outputs. `shapes` None: those of the gradients.
    """

    def __init__(self, bucket, is_prepared, function, parameters, written, shapes, dtypes):
        super().__init__(auto_prefix=False)
        slots = bucket.slots
        self.start, self.stop = bucket.start, bucket.stop
        # The columns of ROWS. The index of a piece is 0 for a whole parameter.
        rows = [(each.row, each.key, each.piece.rank if each.piece else 0) for each in slots]
        self.rows = Tensor(np.array([(*row, own) for row, own in zip(rows, is_prepared)], np.int64).astype(np.int32))
        hold(self, parameters=ParameterTuple(parameters))
        self.moment1 = ParameterTuple(each.moment1 for each in slots)
        self.moment2 = ParameterTuple(each.moment2 for each in slots)
        self.masters = ParameterTuple(each.master for each in slots if each.master is not None)
        counts = {"coefficients": 1, "rows": 1, "parameter": len(self.parameters), "master": len(self.masters)}
        inputs = {role: counts.get(role, len(slots)) for role in ROLES}
        # In an attribute of its own: from a tuple it would be dropped, see side effects in docs_en/contributing.rst.
        self.adam = host.NativeOperation(function, shapes or _shapes_of_gradients(inputs), dtypes, inputs, written)

    def launch(self, coefficients, parameters, gradients):
        # In the order of ROLES.
        return self.adam(coefficients, self.rows, *parameters, *self.moment1, *self.moment2, *gradients, *self.masters)


def _shapes_of_gradients(inputs):
    """Returns a function that gives outputs the shapes of the gradients, whatever they are when MindSpore infers them.

    In semi-automatic parallel it infers them once more, after it has cut the tensors.
    """
    names, counts = list(inputs), list(inputs.values())
    start = sum(counts[: names.index("gradient")])

    def shapes(*of_inputs):
        # MindSpore takes an output of shape () for a number, so declare it as (1,).
        return tuple(tuple(shape) or (1,) for shape in of_inputs[start : start + inputs["gradient"]])

    return shapes


class _InPlace(_Update):
    """Writes the parameters of a bucket in host memory."""

    def __init__(self, bucket):
        parameters = [each.parameter for each in bucket.slots]
        no, written = [False] * len(parameters), ("parameter", *WRITTEN)
        super().__init__(bucket, no, "AdamInPlace", parameters, written, (1,), float32)

    def construct(self, coefficients, gradients):
        return self.launch(coefficients, self.parameters, gradients[self.start : self.stop])


class _Assign(_Update):
    """Returns tensors, which the device then writes; of a piece, after it has gathered those of all ranks.

    The kernel clips and decays what it sees: all gradients, and the weights of parameters that have a master. Where a
    float32 parameter has a penalty, the device does both, and the kernel is told.
    """

    def __init__(self, bucket, features):
        slots = bucket.slots
        decays = [each.has_decay and each.master is None for each in slots]
        has_penalty = [decay and not features.decoupled for decay in decays]
        parameters = [each.parameter for each in slots if each.master is not None]
        dtypes = tuple(each.parameter.dtype for each in slots)
        super().__init__(bucket, has_penalty, "AdamAssign", parameters, WRITTEN, None, dtypes)
        self.has_masters = len(self.masters) > 0
        self.cuts = nn.CellList([Cut(each.piece) for each in slots], auto_prefix=False)
        self.gather = Gather(slots)
        fresh_values = [FreshValue(each.parameter, each.piece) for each in slots if each.master is not None]
        self.fresh_values = nn.CellList(fresh_values, auto_prefix=False)
        self.no_rows = (None,) * len(slots)
        self.reads_rows = any(decays) or features.skip
        self.some_penalty, self.has_penalty = any(has_penalty), tuple(has_penalty)
        self.row_of = tuple(each.row for each in slots)
        hold(self, weights=ParameterTuple(each.parameter for each in slots))
        self.clip_and_decay = ClipAndDecay(features.clip, True, on_device)
        decoupled = [decay and features.decoupled for decay in decays]
        writes = [Write(each.parameter, on_device, decay, features.skip) for each, decay in zip(slots, decoupled)]
        self.writes = nn.CellList(writes, auto_prefix=False)

    def construct(self, coefficients, gradients):
        gradients = gradients[self.start : self.stop]
        rows = self.no_rows
        if self.reads_rows:
            rows = host.map_(ops.partial(host.pick, host.map_(host.unstack, host.unstack(coefficients))), self.row_of)
        if self.some_penalty:
            prepare = ops.partial(_prepare, self.clip_and_decay)
            gradients = host.map_(prepare, self.has_penalty, rows, gradients, self.cuts, self.weights)
        parameters = host.map_(host.call0, self.fresh_values) if self.has_masters else ()
        return host.map_(host.call2, self.writes, self.gather(self.launch(coefficients, parameters, gradients)), rows)


class Norm(nn.Cell):
    """Measures gradients: sums the squares of all in blocks, then adds the sums. See `mindspore_offload.update`."""

    def __init__(self, slots):
        super().__init__(auto_prefix=False)
        counts = [-(-each.size // BLOCK) for each in slots]
        self.rows = Tensor(np.array([(n, each.piece is not None) for n, each in zip(counts, slots)], np.int32))
        self.gather = gather_of(slots)
        # A float64 sum is two numbers of float32.
        self.sums = host.NativeOperation("SumsOfSquares", (2 * sum(counts),), float32)
        self.norm = host.NativeOperation("GlobalNorm", (1,), float32)

    def construct(self, gradients):
        sums = self.sums(*gradients)
        if self.gather is not None:
            sums = self.gather(sums)
        return self.norm(sums, self.rows)


def _prepare(clip_and_decay, has_penalty, row, gradient, cut, parameter):
    return clip_and_decay(row, gradient, cut(parameter)) if has_penalty else gradient
