# SPDX-License-Identifier: Apache-2.0

"""Starts programs on several ranks, as MindSpore's ``msrun`` does."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

# The workers run the first python in PATH.
_ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}


def run(program, folder, ranks, *arguments):
    """Runs a program on so many ranks, in a folder that also gets their output. Returns the exit status of msrun.

    It is 1 if a rank or the scheduler ended with another status than 0. Prints which did, and how all outputs end.
    """
    command = (
        *(sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={ranks}"),
        *(f"--local_worker_num={ranks}", f"--master_port={_free_port()}", "--join=True", f"--log_dir={folder}/log"),
        *map(str, (program, *arguments)),
    )
    ended = subprocess.run(
        command, env=_ENVIRONMENT, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )
    print(*(line for line in ended.stdout.splitlines() if "exit with exception" in line), sep="\n")
    outputs = {log.name: log.read_text(errors="replace") for log in sorted(Path(folder, "log").glob("*.log"))}
    for name, output in {f"msrun, exit status {ended.returncode}": ended.stdout, **outputs}.items():
        print(name, output[-2000:], sep="\n")
    return ended.returncode


def _free_port():
    """Returns a port below those that Linux hands out: another program may get one of those before msrun does."""
    while True:
        with socket.socket() as free:
            port = random.SystemRandom().randrange(20_000, 32_000)
            try:
                free.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
