# SPDX-License-Identifier: Apache-2.0

"""The commands of ``python -m mindspore_offload``.

A command is a module with ``HELP`` ("prints ..."), ``add_options(parser)`` and ``run(arguments)``, which returns the
exit status. It imports MindSpore in ``run`` and not before, so that help and refusals come at once.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile

from mindspore_offload._version import __version__
from mindspore_offload.commands import doctor, estimate, merge
from mindspore_offload.commands.output import Stream, say
from mindspore_offload.errors import CommandError

COMMANDS = {"doctor": doctor, "estimate": estimate, "merge": merge}

USAGE_ERROR, INTERRUPTED = 2, 130  # exit statuses; the doctor returns 1 if it found a fault


class _Parser(argparse.ArgumentParser):
    """Prints each error in one line."""

    def error(self, message):
        say(f"{self.prog}: {message}; '{self.prog} --help' lists the options")
        self.exit(USAGE_ERROR)


@contextlib.contextmanager
def _scratch_folder():
    """Gives MindSpore a folder for its files about a compilation that fails or is interrupted."""
    name = "MS_OM_PATH"
    with contextlib.ExitStack() as stack:
        if name not in os.environ:
            try:
                os.environ[name] = stack.enter_context(tempfile.TemporaryDirectory())
            except OSError as error:
                text = f"no temporary folder can be made: {error.strerror}; set TMPDIR to a folder"
                raise CommandError(text) from error
            stack.callback(os.environ.pop, name)
        yield


def main(argv=None):
    """Runs the command that the arguments name and returns its exit status."""
    given = sys.argv[1:] if argv is None else argv
    program = "python -m mindspore_offload"
    parser = _Parser(prog=program, description="An offloaded Adam for MindSpore, on this machine.")
    parser.add_argument("--version", action="version", version=f"mindspore_offload {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        command.add_options(commands.add_parser(name, help=command.HELP, description=f"{command.HELP.capitalize()}."))
    for argument in given:
        if re.fullmatch("--[a-z-]+=--|-[a-z]--", argument):  # argparse would drop the value
            parser.error(f"{argument!r} has the value '--', which no option has")
    try:
        with contextlib.redirect_stdout(Stream(sys.stdout)):
            arguments = parser.parse_args(given)
            program = f"{program} {arguments.command}"
            with _scratch_folder():
                return COMMANDS[arguments.command].run(arguments)
    except CommandError as error:
        say(f"{program}: {error}")
        return USAGE_ERROR
    except KeyboardInterrupt as interrupt:
        say(f"{program}: interrupted{interrupt}")
        return INTERRUPTED
