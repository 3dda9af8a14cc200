# SPDX-License-Identifier: Apache-2.0

"""Processes whose GPU is the second memory, and one that has only the CPU to compare with."""

import pickle
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msrun
import pytest
from worker import ENVIRONMENT, FOLDER, Worker

# One dispatch thread is the default up to 11 cores; with more, MindSpore cuts graphs into other segments.
REGIMES = {
    "O0-1thread": ("O0", 1),
    "O1-2threads": ("O1", 2),
    "O0-2threads": ("O0", 2),
    "O1-1thread": ("O1", 1),
}


@pytest.fixture(scope="session", autouse=True)
def _is_built():
    assert (FOLDER / "libcuda_ops.so.11").exists(), "build the second memory first, or use `make second-memory`"


@pytest.fixture(scope="session")
def regime(request):
    return request.param


@pytest.fixture(scope="session")
def gpu(regime, tmp_path_factory):
    """The second memory, in one regime of MindSpore's runtime."""
    worker = Worker("GPU", *REGIMES[regime], tmp_path_factory.mktemp("copies") / "log")
    yield worker
    worker.stop()


@pytest.fixture(scope="session")
def cpu(tmp_path_factory):
    """The CPU device, to compare with. Keeps its results for the other regimes."""
    worker = Worker("CPU", "O0", 1, tmp_path_factory.mktemp("copies") / "log")
    kept = {}

    def run(scenario, *arguments, **settings):
        key = repr((scenario, arguments, sorted(settings.items())))
        if key not in kept:
            kept[key] = worker.run(scenario, *arguments, **settings)
        return kept[key]

    yield run
    worker.stop()


class Job(NamedTuple):
    """The ranks that train, and the settings of their runtime. A mutant is a function of `mutants`."""

    ranks: int
    jit_level: str
    dispatch_threads: int
    mutant: str = "none"


@pytest.fixture(scope="session")
def trained(request, tmp_path_factory):
    """A function that returns the results of a case, one for each rank. A text is that of an error."""
    folders = {}

    def results(job, name):
        if job not in folders:
            folders[job] = tmp_path_factory.mktemp("ranks")
            parameters = [getattr(item, "callspec", None) and item.callspec.params for item in request.session.items]
            of_job = [each for each in parameters if each and each.get("job") == job]
            names = dict.fromkeys(
                name for each in of_job for name in (each["name"].removeprefix("replaced-"), each["name"])
            )
            program = Path(__file__).parent / "ranks" / "rank.py"
            arguments = folders[job], job.jit_level, job.dispatch_threads, job.mutant, *names
            run_on_ranks(program, folders[job], job.ranks, *arguments)
        files = [folders[job] / f"{name}.{rank}" for rank in range(job.ranks)]
        assert all(file.exists() for file in files), "the processes died; their last words are in the captured stdout"
        return [pickle.loads(file.read_bytes()) for file in files]

    return results


def run_on_ranks(program, folder, ranks, *arguments):
    """Runs a program on several ranks, each of which has a second memory. Returns the exit status of msrun."""
    variables = {**ENVIRONMENT, "SECOND_MEMORY_DEVICES": str(ranks), "GLOG_v": "3"}
    with mock.patch.dict(msrun._ENVIRONMENT, variables):
        return msrun.run(program, folder, ranks, *arguments)


@pytest.fixture(scope="session")
def alone(cpu):
    """A function that returns the results of a case in one process without ranks."""
    return lambda case: cpu("trainings.train", 1, case)


def table(cases, *always, names=("settings", "dtypes")):
    """Parametrizes a test with cases by name. Only the cases that are named are in every run."""
    marks = {name: () if name in always else pytest.mark.full for name in cases}
    return pytest.mark.parametrize(names, [pytest.param(*case, id=n, marks=marks[n]) for n, case in cases.items()])


def pytest_generate_tests(metafunc):
    """Tests run in the first two regimes, which differ in both settings; in all four if marked `every_regime`.

    Only `make test-all` runs the last two. pytest groups the tests of a regime, so one second memory lives at a time.
    """
    if "regime" in metafunc.fixturenames:
        every = metafunc.definition.get_closest_marker("every_regime")
        names = list(REGIMES)[: 4 if every else 2]
        regimes = [pytest.param(name, marks=() if i < 2 else pytest.mark.full) for i, name in enumerate(names)]
        metafunc.parametrize("regime", regimes, scope="session", indirect=True)


def pytest_configure(config):
    config.addinivalue_line("markers", "every_regime: runs in all regimes of MindSpore's runtime, not only in two")
