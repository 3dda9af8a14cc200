# SPDX-License-Identifier: Apache-2.0

"""The tests find the faults that they are made for: with each of them, the tests that are named here fail."""

import pytest
import test_bytes
import test_same_results
from worker import Worker


def bytes_of(case):
    settings, dtypes = test_bytes.CASES[case]
    return test_bytes.test_a_step_copies_what_is_documented, {"settings": settings, "dtypes": dtypes}


def training(case):
    settings, dtypes = test_same_results.TRAININGS[case]
    return test_same_results.test_training, {"settings": settings, "dtypes": dtypes}


def assigned(case):
    settings, dtypes = test_same_results.DTYPES[case]
    arguments = {"way": "ops.assign", "settings": settings, "dtypes": dtypes}
    return test_same_results.test_a_weight_written_outside_wins, arguments


MUTANTS = {
    "parameter_itself": [bytes_of("float16"), assigned("float16")],
    "missing_writeback": [bytes_of("float32"), training("plain-float32"), training("plain-mixed")],
    "state_on_device": [bytes_of("float32"), bytes_of("decay-clip-float32")],
    "result_on_host": [bytes_of("float32"), bytes_of("float16"), assigned("float32")],
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_fault_is_found(mutant, cpu, tmp_path):
    worker = Worker("GPU", "O0", 1, tmp_path / "log", mutant)
    try:
        for test, arguments in MUTANTS[mutant]:
            compared = {} if test is test_bytes.test_a_step_copies_what_is_documented else {"cpu": cpu}
            with pytest.raises(AssertionError):
                test(gpu=worker, **arguments, **compared)
    finally:
        worker.stop()
