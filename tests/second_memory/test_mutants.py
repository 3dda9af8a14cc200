# SPDX-License-Identifier: Apache-2.0

"""The checks find the faults that they are made for: with each of them, the checks that are named here fail."""

import functools

import checks
import pytest
from worker import Worker

pytestmark = pytest.mark.full


def bytes_of(case):
    settings, dtypes = checks.COPIES[case]
    return lambda gpu, cpu: checks.step_copies_what_is_documented(gpu, settings, dtypes)


def training(case):
    settings, dtypes = checks.TRAININGS[case]
    return functools.partial(checks.trains_as_on_the_cpu, settings=settings, dtypes=dtypes)


def assigned(case):
    settings, dtypes = checks.DTYPES[case]
    return functools.partial(checks.weight_written_outside_wins, way="ops.assign", settings=settings, dtypes=dtypes)


MUTANTS = {
    "parameter_itself": [bytes_of("float16"), assigned("float16")],
    "missing_writeback": [bytes_of("float32"), training("plain-float32"), training("plain-mixed")],
    "state_on_device": [bytes_of("float32"), bytes_of("decay-clip-float32")],
    "result_on_host": [bytes_of("float32"), bytes_of("float16"), assigned("float32")],
}


@pytest.mark.full
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_fault_is_found(mutant, cpu, tmp_path):
    worker = Worker("GPU", "O0", 1, tmp_path / "log", mutant)
    try:
        for check in MUTANTS[mutant]:
            with pytest.raises(AssertionError):
                check(worker, cpu)
    finally:
        worker.stop()
