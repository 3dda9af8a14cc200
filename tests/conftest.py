"""Graph mode for all tests, in a scratch folder: MindSpore writes what it compiles into the working directory."""

import hypothesis
import mindspore as ms
import pytest

from mindspore_offload import native_library

# The same examples in every run of the tests, and new ones in every campaign of `make fuzz`.
hypothesis.settings.register_profile("tests", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("campaign", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def _scratch_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scratch"))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Comes before a module's fixtures, whose random weights would else depend on the test that ran before."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)


@pytest.fixture(params=["native", "stock"])
def host_kernel(request):
    """Both host operations are held to the same promises."""
    return request.param


@pytest.fixture
def fresh_library():
    """Lets a test change how the native library is found and set up; afterwards it is loaded as it was before."""
    native_library.load.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    native_library.load.cache_clear()
    library = native_library.load()
    library.MindsporeOffloadSetIsa(library.MindsporeOffloadSupportedIsas().split()[0])
