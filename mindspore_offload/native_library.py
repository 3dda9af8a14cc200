# SPDX-License-Identifier: Apache-2.0

"""Loads the native library, and explains what to do if it can't be used."""

import ctypes
import functools
import hashlib
import os
import platform
import sys
from pathlib import Path

from mindspore_offload import abi, machine

PATH = Path(__file__).resolve().parent / "libmindspore_offload.so"

# The numbers of threads that can be asked for, by their text.
THREADS = {str(count): count for count in range(1, 1025)}

# Without --no-cache-dir, pip takes the wheel that it built and cached without the library.
_REBUILD = (
    "install a C++ compiler (g++ or clang++) and reinstall mindspore_offload with "
    "'pip install --force-reinstall --no-deps --no-cache-dir'"
)


class NativeLibraryError(RuntimeError):
    """The native library can't be used on this machine. The text says why, and what to do."""


@functools.cache
def load():
    """Loads the native library and sets its instruction set and its number of threads.

    - Instruction set: MINDSPORE_OFFLOAD_ISA, else the best that this machine runs.
    - Threads: MINDSPORE_OFFLOAD_THREADS, else OMP_NUM_THREADS, else the cores that this process may use by its affinity
      and its container's limit, shared with the other workers of `msrun`.

    Returns:
        ctypes.CDLL.

    Raises:
        NativeLibraryError: If the library is missing, was built for another machine, from other sources or with other
            arithmetic, or is outside MindSpore's white list, or if one of its environment variables has a value that
            can't be honoured.
    """
    if platform.system() != "Linux":
        raise NativeLibraryError(f"the native library runs on Linux only, but this is {platform.system()}")
    if not PATH.exists():
        raise NativeLibraryError(f"{PATH} does not exist, because the installation did not compile it; {_REBUILD}")
    flushed_before = _flushes_subnormals()
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise NativeLibraryError(f"{PATH} can't be loaded ({error}); {_REBUILD} on this machine") from error
    _check_abi(library)
    for name in ("Build", "Isa", "SupportedIsas"):
        getattr(library, f"MindsporeOffload{name}").restype = ctypes.c_char_p
    library.MindsporeOffloadSetIsa.restype = ctypes.c_bool
    library.MindsporeOffloadThreads.restype = ctypes.c_size_t
    library.MindsporeOffloadSetThreads.argtypes = [ctypes.c_size_t]
    _check_arithmetic(library, flushed_before)
    _check_white_list()
    _set_isa(library)
    _set_threads(library)
    return library


def _check_abi(library):
    """Refuses a library that was built from other sources than this package: it would read its arguments wrongly."""
    describe = getattr(library, "MindsporeOffloadAbi", lambda: b"")
    describe.restype = ctypes.c_char_p
    difference = abi.difference(describe().decode())
    if difference:
        raise NativeLibraryError(
            f"{PATH} does not fit this version of the package: {difference}; {_REBUILD}, or in a checkout run "
            f"'python setup.py build_ext --inplace'"
        )


def _check_arithmetic(library, flushed_before):
    """Refuses a library whose compiler changed the arithmetic: it would miss NaN, or give other bits."""
    library.MindsporeOffloadChangedArithmetic.restype = ctypes.c_char_p
    changed = library.MindsporeOffloadChangedArithmetic().decode()
    if not changed and _flushes_subnormals() and not flushed_before:
        changed = "it turns subnormal numbers into zeros"
    if changed:
        raise NativeLibraryError(
            f"{PATH} does not compute as IEEE 754 defines: {changed}; reinstall mindspore_offload without options such "
            f"as -ffast-math in CFLAGS, CXXFLAGS, CPPFLAGS and LDFLAGS"
        )


def _flushes_subnormals():
    """Returns True if the processor turns subnormal numbers into zeros in this thread."""
    return sys.float_info.min / 2 == 0


def path_variable():
    """Returns the name of the environment variable with the library's path, which it sets.

    A graph has this name instead of the path, because MindSpore's compile cache keeps graphs: another process may
    import the package from elsewhere. The name holds a digest of the package's Python sources, so a graph of another
    version finds no path. The error that MindSpore raises then shows the name, which says what to do.
    """
    name = f"MINDSPORE_OFFLOAD_LIBRARY_{_digest_of_sources()}_IF_MISSING_DELETE_THE_COMPILE_CACHE"
    os.environ[name] = str(PATH)
    return name


@functools.cache
def _digest_of_sources():
    folder = Path(__file__).resolve().parent
    sources = [f"{path.relative_to(folder)}\n{path.read_text('utf-8')}" for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def _set_isa(library):
    name = os.environ.get("MINDSPORE_OFFLOAD_ISA")
    if name and not library.MindsporeOffloadSetIsa(os.fsencode(name)):
        supported = library.MindsporeOffloadSupportedIsas().decode().split()
        _refuse("MINDSPORE_OFFLOAD_ISA", f"one of {supported} on this machine", "one of them")


def _set_threads(library):
    """Sets the number of threads from Python's copy of the environment.

    The library must not read OMP_NUM_THREADS itself: MindSpore sets it to 1 in the process, but not in os.environ.
    """
    text, openmp = (os.environ.get(name, "") for name in ("MINDSPORE_OFFLOAD_THREADS", "OMP_NUM_THREADS"))
    is_worker = os.environ.get("MS_ROLE") == "MS_WORKER"
    if is_worker and openmp == "1":
        openmp = ""  # a worker inherits the 1 that MindSpore sets in `msrun`, and the user did not ask for it
    threads = THREADS.get((text or openmp).strip().lstrip("0"))  # None for a list, which OpenMP allows
    if text and not threads:
        _refuse("MINDSPORE_OFFLOAD_THREADS", f"a whole number from 1 to {len(THREADS)}", "such a number")
    workers = _local_workers() if is_worker else 1
    library.MindsporeOffloadSetThreads(threads or max(1, machine.allowed_cores() // workers))


def _local_workers():
    """Returns how many workers `msrun` started on this machine; they share its cores.

    Counts the device ids of the parent's children, not the children: the process that shows the log of a worker has the
    environment of that worker.
    """
    parent = os.getppid()
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        environments = [Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children]
    except OSError:
        return 1
    workers = [environment for environment in environments if b"MS_ROLE=MS_WORKER" in environment]
    devices = {entry for environment in workers for entry in environment if entry.startswith(b"DEVICE_ID=")}
    return max(1, len(devices))


def _check_white_list():
    """Refuses a white list without our library. MindSpore refuses it too, but does not say what to do."""
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    # As MindSpore resolves it. Unlike Path.resolve, this raises nothing, for a loop of symbolic links for example.
    if allowed is not None and not PATH.is_relative_to(os.path.realpath(allowed)):
        _refuse("MS_CUSTOM_AOT_WHITE_LIST", f"a folder that holds {PATH}", f"'{PATH.parent}'")


def _refuse(variable, must_be, cure):
    raise NativeLibraryError(
        f"the environment variable {variable} must be {must_be}, but it is {os.environ[variable]!r:.100}; "
        f"set it to {cure} or unset it"
    )
