# SPDX-License-Identifier: Apache-2.0

"""The command line that all examples share."""

import argparse
import sys
from pathlib import Path

import mindspore as ms


def parser(documentation, epochs):
    """Returns an `ArgumentParser` with the shared arguments, described by the first line of `documentation`."""
    shared = argparse.ArgumentParser(description=documentation.partition("\n")[0])
    shared.add_argument("--epochs", type=_positive, default=epochs, help="epochs to train (default: %(default)s)")
    shared.add_argument("--seed", type=int, default=1, help="random seed (default: %(default)s)")
    shared.add_argument("--device-target", choices=["CPU", "GPU", "Ascend"], default="CPU", help="(default: CPU)")
    shared.add_argument("--output", type=Path, default=Path("output"), help="folder for files (default: %(default)s)")
    return shared


def add_steps(parser, default=None):
    """Adds --steps, for examples whose epochs take long. `steps` reads it."""
    shown = "no bound" if default is None else default
    parser.add_argument("--steps", type=_positive, default=default, help=f"most steps to train (default: {shown})")


def steps(arguments, epoch):
    """Returns how many steps to train, at `epoch` steps an epoch."""
    return min(arguments.epochs * epoch, arguments.steps or sys.maxsize)


def parse(parser):
    """Parses the arguments, sets MindSpore up accordingly, and creates the folder for the output."""
    arguments = parser.parse_args()
    set_up(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def set_up(arguments):
    """Sets graph mode and the requested device."""
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        ms.set_device(arguments.device_target)
    except RuntimeError as error:
        reason = str(error).partition(". ")[0]
        sys.exit(
            f"{Path(sys.argv[0]).name}: error: this MindSpore can't use --device-target {arguments.device_target} "
            f"({reason}); install MindSpore for it, or leave the argument out."
        )


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but it is {number}")
    return number
