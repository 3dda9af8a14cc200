"""Finds the native library, and explains what to do where it can't be used."""

import ctypes
import functools
import os
import platform
from pathlib import Path

from mindspore_offload import machine

PATH = Path(__file__).resolve().parent / "libmindspore_offload.so"

MAX_THREADS = 1024

_REBUILD = "install a C++ compiler (g++ or clang++) and reinstall mindspore_offload"


class NativeLibraryError(RuntimeError):
    """The native library can't be used here; the text says why and what to do."""


@functools.cache
def load():
    """The native library as a `ctypes.CDLL`, ready to use.

    Its instruction set and its number of threads are then those that the environment asks for: MINDSPORE_OFFLOAD_ISA,
    else the best that this machine runs; MINDSPORE_OFFLOAD_THREADS, else OMP_NUM_THREADS, else the cores that this
    process may use: its affinity and its container's limit, shared with the other workers of `msrun`.

    Raises:
        NativeLibraryError: If it is missing, is not for this machine, is outside MindSpore's white list, or if one of
            its environment variables has a value that can't be honoured.
    """
    if platform.system() != "Linux":
        raise NativeLibraryError(f"the native library runs on Linux only, but this is {platform.system()}")
    if not PATH.exists():
        raise NativeLibraryError(
            f"{PATH} does not exist, because it was not compiled when the package was installed; {_REBUILD}"
        )
    try:
        library = ctypes.CDLL(str(PATH))
    except OSError as error:
        raise NativeLibraryError(f"{PATH} can't be loaded ({error}); {_REBUILD} on this machine") from error
    for name in ("MindsporeOffloadBuild", "MindsporeOffloadIsa", "MindsporeOffloadSupportedIsas"):
        getattr(library, name).restype = ctypes.c_char_p
    library.MindsporeOffloadSetIsa.restype = ctypes.c_bool
    library.MindsporeOffloadThreads.restype = ctypes.c_size_t
    library.MindsporeOffloadSetThreads.argtypes = [ctypes.c_size_t]
    _check_white_list()
    _set_isa(library)
    _set_threads(library)
    return library


def _set_isa(library):
    name = os.environ.get("MINDSPORE_OFFLOAD_ISA")
    if name and not library.MindsporeOffloadSetIsa(name.encode()):
        supported = library.MindsporeOffloadSupportedIsas().decode().split()
        raise NativeLibraryError(
            f"the environment variable MINDSPORE_OFFLOAD_ISA must be one of {supported} on this machine, "
            f"but it is {name!r}; set it to one of them or unset it"
        )


def _set_threads(library):
    """The library itself can't read OMP_NUM_THREADS: MindSpore sets it to 1 in the process, unseen by os.environ."""
    name = "MINDSPORE_OFFLOAD_THREADS"
    wanted = os.environ.get(name)
    if wanted and not _is_thread_count(wanted):
        raise NativeLibraryError(
            f"the environment variable {name} must be a whole number from 1 to {MAX_THREADS}, but it is {wanted!r}; "
            f"set it to one or unset it"
        )
    # A worker of `msrun` inherits the 1 that MindSpore has set in that; nobody asked for it.
    inherited = "1" if _is_worker() else None
    openmp = os.environ.get("OMP_NUM_THREADS", "")
    wanted = wanted or (openmp if openmp != inherited else "")
    if not _is_thread_count(wanted):  # OMP_NUM_THREADS may also be a list, which is not for us
        wanted = max(1, machine.allowed_cores() // _local_workers())
    library.MindsporeOffloadSetThreads(int(wanted))


def _is_worker():
    """Whether `msrun` started this process."""
    return os.environ.get("MS_ROLE") == "MS_WORKER"


def _local_workers():
    """How many workers `msrun` started on this machine: they share its cores. 1 without msrun.

    They are counted by the device that each is given on this machine, because the process that shows the log of a
    worker has the environment of that worker.
    """
    if not _is_worker():
        return 1
    parent = os.getppid()
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        environments = [Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children]
    except OSError:
        return 1
    workers = [environment for environment in environments if b"MS_ROLE=MS_WORKER" in environment]
    devices = {entry for environment in workers for entry in environment if entry.startswith(b"DEVICE_ID=")}
    return max(1, len(devices))


def _is_thread_count(text):
    return text.isdecimal() and 1 <= int(text) <= MAX_THREADS


def _check_white_list():
    """MindSpore loads no library from outside this folder, and says so in words that don't help."""
    allowed = os.environ.get("MS_CUSTOM_AOT_WHITE_LIST")
    if allowed is not None and not PATH.is_relative_to(Path(allowed).resolve()):
        raise NativeLibraryError(
            f"MS_CUSTOM_AOT_WHITE_LIST is '{allowed}', which does not hold {PATH}; set it to "
            f"'{PATH.parent}' or unset it"
        )
