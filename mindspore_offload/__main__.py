# SPDX-License-Identifier: Apache-2.0

"""Runs ``python -m mindspore_offload doctor | estimate | merge``, or ``mindspore-offload`` for short."""

import os
import signal
import sys

from mindspore_offload.commands import INTERRUPTED, main


def run():
    """Runs the command that the arguments of this process name, and ends the process."""
    # These signals would end this process at once, and leave its files behind. While MindSpore computes, it answers an
    # interrupt by sending itself SIGTERM. `nohup` ignores SIGHUP.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    status = main()
    if status == INTERRUPTED:
        # MindSpore crashes when it is taken down in the middle of its import or of a step.
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
