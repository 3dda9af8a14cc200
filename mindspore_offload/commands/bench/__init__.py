"""``bench``: how fast is it here, next to the optimizers of MindSpore, PyTorch and DeepSpeed."""

import importlib.util
import json
import os
import platform

from mindspore_offload import __version__, machine, native_library
from mindspore_offload.commands.errors import CommandError
from mindspore_offload.commands.options import whole_number

HELP = "time and memory of a step on this machine, next to other optimizers"

LARGE, SMALL = (64 * 2**20, 16), (300 * 4096, 300)  # parameters and tensors of the tables
LAYERS = 20


def add_options(parser):
    parser.add_argument(
        "--params",
        type=whole_number,
        metavar="N",
        help=f"measure this number only (default: {SMALL[0]} and {LARGE[0]})",
    )
    parser.add_argument(
        "--tensors", type=whole_number, metavar="N", default=LARGE[1], help="tensors of them (default: %(default)s)"
    )
    parser.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help=f"Dense(4096) layers of the trainings for memory (default: {LAYERS}, and none with --params)",
    )
    parser.add_argument(
        "--steps", type=whole_number, default=30, metavar="N", help="timed steps of each rival (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=whole_number,
        metavar="N",
        help="of this package and the peers; MindSpore's own take what they want (default: as the optimizer takes)",
    )
    parser.add_argument("--loaded", action="store_true", help="also measure a step while one of its cores is busy")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the table of the most parameters")


def run(arguments):
    """Measures, and prints each table when it is complete."""
    params = arguments.params or LARGE[0]
    if arguments.tensors > params:
        raise CommandError(f"--tensors must be at most the number of parameters, {params}, but got {arguments.tensors}")
    layers = arguments.layers if arguments.layers is not None else 0 if arguments.params else LAYERS
    if layers < 0:
        raise CommandError(f"--layers must be at least 0, but got {layers}")
    if arguments.plot and not arguments.plot.endswith(".png"):
        raise CommandError(f"--plot must be a file that ends in .png, but got {arguments.plot}")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise CommandError("--plot needs matplotlib; in the folder of the source, pip install '.[examples]'")
    if arguments.plot and not os.access(os.path.dirname(os.path.abspath(arguments.plot)), os.W_OK):
        raise CommandError(f"--plot can't write {arguments.plot}; give a file in a folder that exists")
    library = _library(arguments.threads)

    import mindspore as ms
    import numpy as np

    from mindspore_offload.commands.bench import loaded, memory, peers, rivals, tables, timing

    ms.set_context(mode=ms.GRAPH_MODE)
    others, missing = peers.installed(library.MindsporeOffloadThreads())
    contenders = {rivals.BARE_LOOP: rivals.BareLoop(), **rivals.ALL, **others}
    few = {name: contenders[name] for name in (rivals.BARE_LOOP, *rivals.MAIN, *others)}
    timing.check_memory(params, [*contenders.values(), *[rivals.ALL["AdamOffload"]] * arguments.loaded])
    memory.check_memory(layers)

    report = {
        "mindspore_offload": __version__,
        "MindSpore": ms.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "CPU": machine.cpu_name(),
        "instruction set": library.MindsporeOffloadIsa().decode(),
        "threads": library.MindsporeOffloadThreads(),
        "seed": timing.SEED,
        "missing": missing,
        "steps": [],
    }
    say = (lambda text: None) if arguments.json else lambda text: print(text, flush=True)
    say(tables.header(report))
    if not arguments.params:
        report["steps"].append(_timed(*SMALL, arguments.steps, few))
        say(tables.steps(report["steps"][-1]))
    if layers:
        report["training"] = {"layers": layers, "params": memory.params_of(layers)}
        report["training"]["rivals"] = memory.measure(rivals.TRAINED, layers)
        say(tables.training(report["training"]))
    report["steps"].append(_timed(params, arguments.tensors, arguments.steps, contenders))
    say(tables.steps(report["steps"][-1]))
    if arguments.loaded:
        size = params // arguments.tensors
        report["loaded"] = loaded.measure(contenders["AdamOffload"], size, arguments.tensors, arguments.steps)
        say(tables.loaded(report["loaded"]))
    if arguments.json:
        print(json.dumps(report, indent=2))
    if arguments.plot:
        from mindspore_offload.commands.bench.plot import plot

        plot(report, arguments.plot)
        say(f"\n{arguments.plot} has the last table of steps as a picture.")
    return 0


def _library(threads):
    if threads:
        os.environ["MINDSPORE_OFFLOAD_THREADS"] = str(threads)  # of this process, and of those that it starts
        native_library.load.cache_clear()
    try:
        return native_library.load()
    except native_library.NativeLibraryError as error:
        raise CommandError(f"there is nothing to measure, because {error}") from error


def _timed(params, tensors, steps, contenders):
    """One table of steps, in numbers."""
    from mindspore_offload.commands.bench import timing

    size = params // tensors
    timed = timing.time_steps(size, tensors, steps, contenders)
    rows = []
    for name, rival in timed.items():
        rows.append(
            {
                "name": name,
                "ms": rival.median * 1e3,
                "ms_min": min(rival.seconds) * 1e3,
                "ms_max": max(rival.seconds) * 1e3,
                "ns_a_parameter": rival.median / (size * tensors) * 1e9,
                "gb_s": rival.step_bytes * size * tensors / rival.median / 1e9,
                "relative": rival.median / timed["AdamOffload"].median,
                "first_step_s": rival.first,
            }
        )
    return {"params": size * tensors, "tensors": tensors, "steps": steps, "rivals": rows}
