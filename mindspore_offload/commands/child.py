"""Child processes that never outlive this one."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def command(code, *arguments):
    """The command of a Python process that runs `code` with `arguments` as ``sys.argv[1:]``.

    Start it with ``start_new_session=True``: an interrupt from the terminal then reaches its parent alone, and it ends
    without a traceback. It is killed when its parent ends in whatever way. MindSpore gives interrupts
    their default back after a step, and that ends the parent before it could end its children.
    """
    start = f"from {__name__} import end_with_parent; end_with_parent({os.getpid()})"
    return [sys.executable, "-c", f"{start}\n{code}", *map(str, arguments)]


def end_with_parent(parent):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)
