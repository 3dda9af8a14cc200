# SPDX-License-Identifier: Apache-2.0

"""``merge``: makes one whole checkpoint of those that the ranks of a sharded optimizer saved."""

import contextlib
import os
import resource
import secrets
import time

from mindspore_offload.checkpoints.merge import Merge
from mindspore_offload.checkpoints.reading import format_of, opened
from mindspore_offload.commands.output import say
from mindspore_offload.errors import CommandError

HELP = "merges the checkpoints that all ranks of a sharded optimizer saved into one whole checkpoint"

SECONDS = 5  # between two lines of progress
NAMES_SHOWN = 5


def add_options(parser):
    files = "the checkpoints of all ranks, saved in the same step; in any order, all .ckpt or all .safetensors"
    parser.add_argument("files", nargs="+", metavar="FILE", help=files)
    output = "the checkpoint to write, of the same format as the others"
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=output)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def run(arguments):
    """Writes the whole checkpoint and prints its size. Returns 0."""
    output = arguments.output
    _check_paths(arguments.files, output, arguments.overwrite)
    _allow_open_files()
    try:
        with contextlib.ExitStack() as stack:
            merge = Merge(map(stack.enter_context, map(opened, arguments.files)))
            with named_at_the_end(output, arguments.overwrite) as file:
                _show_progress(merge.write(file), merge.work)
    except OSError as error:
        raise CommandError(f"-o {output!r} can't be written: {error.strerror}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f": {output!r} was not written") from None
    try:
        _report(merge, output)
    except CommandError as error:
        raise CommandError(f"{error}; {output!r} is complete") from error
    return 0


def _report(merge, output):
    print(f"{output!r}: {merge.length:,} bytes of tensors from {merge.ranks} ranks, after step {merge.step}")
    if merge.differing:
        names = ", ".join(f"{name!r:.60}" for name in merge.differing[:NAMES_SHOWN])
        others = len(merge.differing[NAMES_SHOWN:])
        print(f"Different on the ranks, and taken from rank 0: {names}" + (f" and {others} others" if others else ""))


def _check_paths(files, output, may_overwrite):
    """Refuses an output that would replace an input or something else, and mixed formats."""
    if not output.lower().endswith((".ckpt", ".safetensors")):
        raise CommandError(f"-o must end in .ckpt or .safetensors, but got {output!r}")
    exists = os.path.lexists(output)
    if exists and not os.path.isfile(output):
        raise CommandError(f"-o {output!r} is not a regular file; give another path")
    for path in files:
        if format_of(path) is not format_of(output):
            raise CommandError(f"{path!r} and -o {output!r} must be of the same format, .ckpt or .safetensors")
        if exists and os.path.exists(path) and os.path.samefile(path, output):
            raise CommandError(f"-o {output!r} is one of the files to merge; give another path")
    if not may_overwrite:
        _check_absent(output)


def _check_absent(output):
    """Refuses an output that exists."""
    if os.path.lexists(output):
        raise CommandError(f"-o {output!r} exists; give another path, or --overwrite")


def _allow_open_files():
    """Raises this process's limit of open files as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def named_at_the_end(output, may_overwrite):
    """Gives a new file beside `output` to write to. It gets that name when it is complete, or is removed."""
    # Not by the process id: in a container, that of a killed program comes again.
    temporary = f"{output}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not may_overwrite:
            try:
                os.link(temporary, output)  # of all ways to give a name, the one that replaces nothing
            except OSError:
                _check_absent(output)  # or the file system has no hard links
        os.replace(temporary, output)  # does nothing if both are names of one file
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _show_progress(counts, total):
    """Prints how many of the `total` bytes are done, in a line every few seconds."""
    done, shown = 0, time.monotonic()
    for count in counts:
        done += count
        if time.monotonic() >= shown + SECONDS:
            shown = time.monotonic()
            say(f"... {done / 1e9:.1f} of {total / 1e9:.1f} GB")
