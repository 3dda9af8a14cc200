# SPDX-License-Identifier: Apache-2.0

"""The stock host operation: MindSpore's own operations, a few launches a parameter.

Adam is the operation of `nn.Adam`, placed on the host. It splits its work by the number of threads alone, so a run
repeats to the bit. `AdamNoUpdateParam`, the operation of `nn.AdamOffload`, searches for its split by timing and rounds
the ends of the parts differently. `FusedCastAdamWeightDecay` has no vector code on x86-64.
"""

from mindspore import float32, float64, nn, ops

from mindspore_offload import host
from mindspore_offload.update.parameter_update import parameter_update
from mindspore_offload.update.writeback import on_device


def update(bucket, features, writeback):
    """Returns the Cell that updates a bucket. See `mindspore_offload.update`."""
    return _Updates(bucket, features, host.place, writeback)


def update_on_device(bucket, features):
    """Returns the Cell that updates a bucket on the device, where its states then are."""
    return _Updates(bucket, features, on_device, "in_place")


class _Updates(nn.Cell):
    """Updates the parameters of a bucket one by one."""

    def __init__(self, bucket, features, place, writeback):
        super().__init__(auto_prefix=False)
        self.start, self.stop = bucket.start, bucket.stop
        self.rows = tuple(each.row for each in bucket.slots)
        self.map_last_first = ops.Map(None, True)
        updates = [parameter_update(each, features, place, writeback) for each in bucket.slots]
        self.updates = nn.CellList(updates, auto_prefix=False)

    def construct(self, coefficients, gradients):
        rows = host.map_(host.unstack, host.unstack(coefficients))
        return self.map_last_first(ops.partial(_run, rows), self.updates, self.rows, gradients[self.start : self.stop])


class Norm(nn.Cell):
    """Measures gradients: sums the squares of all in float64. See `mindspore_offload.update`."""

    def __init__(self, _slots):
        super().__init__(auto_prefix=False)

    def construct(self, gradients):
        squares = host.map_(_sum_of_squares, gradients)
        return host.reshape(host.cast(host.sqrt(host.add_n(squares)), float32), (1,))


def _run(rows, update, row, gradient):
    return update(rows[row], gradient)


def _sum_of_squares(gradient):
    return host.reduce_sum(host.square(host.cast(gradient, float64)))
