# SPDX-License-Identifier: Apache-2.0

"""``merge``: makes one whole checkpoint of those that the ranks of a sharded optimizer saved."""

import contextlib
import os
import resource
import time

from mindspore_offload.checkpoints.merge import Merge
from mindspore_offload.checkpoints.reading import format_of, opened
from mindspore_offload.checkpoints.writing import named_at_the_end
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
    _allow_open_files(len(arguments.files))
    try:
        with contextlib.ExitStack() as stack:
            merge = Merge(stack.enter_context(opened(path)) for path in arguments.files)
            with named_at_the_end(output, arguments.overwrite) as file:
                _show_progress(merge.write(file), merge.work)
    except FileExistsError as error:
        raise _exists(output) from error
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
    if exists and not may_overwrite:
        raise _exists(output)


def _exists(output):
    return CommandError(f"-o {output!r} exists; give another path, or --overwrite")


def _allow_open_files(count):
    """Raises this process's limit of open files as far as it may, if `count` files and some others need that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 100 if hard == resource.RLIM_INFINITY else min(count + 100, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _show_progress(counts, total):
    """Prints how many of the `total` bytes are done, in a line every few seconds."""
    done, shown = 0, time.monotonic()
    for count in counts:
        done += count
        if time.monotonic() >= shown + SECONDS:
            shown = time.monotonic()
            say(f"... {done / 1e9:.1f} of {total / 1e9:.1f} GB")
