# SPDX-License-Identifier: Apache-2.0

"""Sets up all tests: graph mode, and a scratch folder, because MindSpore writes into the working directory."""

import hypothesis
import mindspore as ms
import pytest

from mindspore_offload import native_library

collect_ignore = ["clients", "second_memory"]  # their own targets install or build what they need

# The same examples in every run of the tests, and new ones in every run of `make fuzz`.
hypothesis.settings.register_profile("tests", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _scratch_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scratch"))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Runs before the fixtures of a module. Otherwise their random weights would depend on the test before."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)


@pytest.fixture(params=["native", pytest.param("stock", marks=pytest.mark.full)])
def host_kernel(request):
    """Each of the two host operations; both make the same promises."""
    return request.param


@pytest.fixture(params=["in_place", "assign"])
def writeback(request):
    return request.param


@pytest.fixture
def library():
    """The native library, whose threads and instruction set a test may change."""
    library = native_library.load()
    threads, isa = library.MindsporeOffloadThreads(), library.MindsporeOffloadIsa()
    yield library
    library.MindsporeOffloadSetThreads(threads)
    library.MindsporeOffloadSetIsa(isa)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request, library):
    """Each instruction set that this machine runs."""
    if request.param not in library.MindsporeOffloadSupportedIsas().decode().split():
        pytest.skip(f"this machine does not run {request.param}")
    assert library.MindsporeOffloadSetIsa(request.param.encode())
    assert library.MindsporeOffloadIsa() == request.param.encode()
    return request.param


@pytest.fixture
def fresh_library():
    """Lets a test change how the native library is found and set up. Afterwards, loads the library as before."""
    native_library.load.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    native_library.load.cache_clear()
    library = native_library.load()
    library.MindsporeOffloadSetIsa(library.MindsporeOffloadSupportedIsas().split()[0])
