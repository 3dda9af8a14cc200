# SPDX-License-Identifier: Apache-2.0

"""Measures the optimizers on this machine and prints tables, or writes them with pictures into a folder."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import signal
import sys
from pathlib import Path

from benchmarks import tables, training
from benchmarks.process import call
from mindspore_offload import __version__, machine, native_library
from mindspore_offload.commands.units import option
from mindspore_offload.errors import CommandError
from mindspore_offload.planning.estimation import COUNT, Range

STEPS = ("large", "mid", "small", "single", "loaded")
PARTS = (*STEPS, *training.NETS)
SEVERAL = Range("whole number", 2)
EXPLAINED = """\
parts:
  large    a step of 16 large tensors, of every optimizer
  mid      a step of BERT-base's tensors
  small    a step of 300 tensors of 4096 elements
  single   large with one thread: this package and the peers
  loaded   large with one core kept busy by another process: this package
  dense, bert, resnet    whole training steps: 20 x Dense(4096), BERT-base, ResNet-50
"""


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="measure these parts only (default: all)")
    parser.add_argument("--params", **option(COUNT), default=2**26, help="parameters of large (default: %(default)s)")
    parser.add_argument(
        "--steps", **option(SEVERAL), default=30, help="timed steps of each optimizer (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        **option(COUNT),
        default=3,
        help="processes of each optimizer that share the steps of dense, bert and resnet (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        **option(COUNT),
        help="threads of this package and the peers (default: as the optimizer chooses). MindSpore's own operations "
        "choose theirs in any case",
    )
    parser.add_argument("--tiny", action="store_true", help="try the programs with tiny tensors and nets")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="write tables and pictures into files named after this CPU"
    )
    arguments = parser.parse_args(argv)
    try:
        _run(arguments)
    except CommandError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments):
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        raise CommandError(f"a part must be one of {', '.join(PARTS)}, but got {unknown[0]!r}")
    parts = [part for part in PARTS if part in arguments.parts or not arguments.parts]
    if arguments.figures and "large" not in parts:
        raise CommandError("--figures needs the part 'large', which the first picture shows")
    if arguments.figures and not os.access(arguments.figures, os.W_OK):
        raise CommandError(f"--figures can't write into {arguments.figures}; give a folder that exists")
    library = _library(arguments.threads)
    options = {
        "params": arguments.params,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "tiny": arguments.tiny,
    }
    _check_memory(parts, options)
    report = {
        "mindspore_offload": __version__,
        "MindSpore": importlib.metadata.version("mindspore"),
        "numpy": importlib.metadata.version("numpy"),
        "Python": platform.python_version(),
        "CPU": cpu(),
        "instruction set": library.MindsporeOffloadIsa().decode(),
        "threads": library.MindsporeOffloadThreads(),
        "parts": {},
    }
    printed = [tables.header(report)]
    say = (lambda text: None) if arguments.json else lambda text: print(text, flush=True)
    say(printed[0])
    for part in parts:
        report["parts"][part] = _measured(part, options)
        printed.append(tables.of(report["parts"][part]))
        say(printed[-1])
    if arguments.json:
        print(json.dumps(report, indent=2))
    if arguments.figures:
        from benchmarks import figures

        for path in figures.write(report, "\n".join(printed), arguments.figures):
            say(f"wrote {path}")


def _library(threads):
    if threads:
        os.environ["MINDSPORE_OFFLOAD_THREADS"] = str(threads)  # of this process, and of those that it starts
        native_library.load.cache_clear()
    try:
        return native_library.load()
    except native_library.NativeLibraryError as error:
        raise CommandError(f"there is nothing to measure, because {error}") from error


def _check_memory(parts, options):
    """Refuses parts that would not fit, before anything is measured."""
    needed = {part: training.needed_memory(part, options) for part in parts if part in training.NETS}
    steps = [part for part in parts if part in STEPS]
    if steps:
        needed |= call("benchmarks.steps:needed_memory", steps, options)
    available = machine.available_memory()
    large = [part for part in parts if needed[part] > 0.9 * available]
    if large:
        raise CommandError(
            f"the part '{large[0]}' needs {needed[large[0]] / 1e9:.1f} GB, but only {available / 1e9:.1f} GB are "
            f"available; give fewer --params for large, single and loaded, or name the other parts"
        )


def _measured(part, options):
    if part in training.NETS:
        return training.measure(part, options)
    if part == "single":
        one = {"MINDSPORE_OFFLOAD_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return call("benchmarks.steps:measure", part, options, environment=one)
    return call("benchmarks.steps:measure", part, options)


def cpu():
    """Returns the CPU's name with its family and model: some virtual machines give all models one name."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        numbers = re.findall(r"^(?:cpu )?(family|model)\s*: (\d+)$", file.read().split("\n\n")[0], re.MULTILINE)
    described = ", ".join(f"{name} {number}" for name, number in numbers)
    return f"{machine.cpu_name()} ({described})" if described else machine.cpu_name()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the children as an interrupt does
    sys.exit(main())
