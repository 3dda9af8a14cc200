# SPDX-License-Identifier: Apache-2.0

"""Processes whose GPU is the second memory, and one that has only the CPU to compare with."""

import pytest
from worker import FOLDER, Worker

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
