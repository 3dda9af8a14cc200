# SPDX-License-Identifier: Apache-2.0

"""Faults that the tests must find: each function puts one into the package, in the child process that calls it."""

from mindspore import ops

from mindspore_offload import host
from mindspore_offload.distributed import parallel_mode
from mindspore_offload.step import inputs
from mindspore_offload.update import native, writeback


def parameter_itself():
    """The host operation reads a 16-bit parameter and not a fresh copy of it."""
    original = inputs.FreshValue.__init__

    def changed(self, parameter, piece=None):
        original(self, parameter, piece)
        self.copies = False

    inputs.FreshValue.__init__ = changed


def missing_writeback():
    """The device never writes the results."""
    writeback.Write.construct = _write_nothing


def state_on_device():
    """The device reads the first moments."""
    native._Update.launch = _launch_after_reading_moments


def result_on_host():
    """The host writes the parameters."""
    original = native.Write
    native.Write = lambda parameter, place, *others: original(parameter, host.place, *others)


def _write_nothing(self, result, row):
    return ops.depend(True, result)


def _launch_after_reading_moments(self, coefficients, parameters, gradients):
    gradients = host.map_(_plus_nearly_nothing, gradients, self.moment1)
    return self.adam(coefficients, self.rows, *parameters, *self.moment1, *self.moment2, *gradients, *self.masters)


def _plus_nearly_nothing(gradient, moment):
    return gradient + moment * 1e-30


def bucket_over_stages():
    """One operation updates the parameters of several pipeline stages."""
    parallel_mode.has_stages = lambda: False
