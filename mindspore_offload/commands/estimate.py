# SPDX-License-Identifier: Apache-2.0

"""``estimate``: prints how many bytes training needs, where, and how long an update takes at least."""

import json
import math

from mindspore_offload import machine, native_library
from mindspore_offload.commands.units import byte_text, option, time_text
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import sizes
from mindspore_offload.planning.estimation import CHOICES, COUNT, RANGES, estimate

HELP = "prints the memory on device and host, the transfers and the time that an update needs, by optimizer and dtype"

SHORT_DTYPES = {row.abbreviation: row.name for row in ELEMENT_TYPES.values()}
DEFAULTS = {**(estimate.__kwdefaults__ or {}), "link_gb_s": 25.0}  # PCI Express 4.0 with 16 lanes, in practice

# One of them has to be given.
SOURCES = {"params": option(COUNT), "checkpoint": {"metavar": "FILE"}, "net": {"metavar": "MODULE:FUNCTION"}}
OPTIONS = {
    "params": "the number of parameters, for example 7e9, 7B or 350M",
    "checkpoint": "a checkpoint of the model: a .ckpt of MindSpore or a .safetensors file",
    "net": "a function without arguments that returns the net, or SCRIPT.py:FUNCTION",
    "max_grad_norm": "the optimizer's max_grad_norm: gradients wait for their norm",
    "min_offload_size": "the optimizer's min_offload_size; needs --net or --checkpoint",
    "offload_ratio": "the optimizer's offload_ratio (default: the smallest that fits; else 1.0)",
    "device_memory": "the memory of each device, for example 64GB or 80GiB",
    "host_memory": "the memory of the host (default: what is available on this machine now)",
    "activations": "leave so much of --device-memory for activations and for MindSpore",
    "devices": "the number of devices that share this host, each with its own optimizer (default: %(default)s)",
    "model_parallel": "the number of slices that semi-automatic parallel makes of a parameter (default: %(default)s)",
    "link_gb_s": "the speed of each device's link, in 1e9 bytes per second (default: %(default)s)",
    "host_gb_s": "the speed of host memory, in 1e9 bytes per second (default: measured)",
    "dtype": "train in this dtype, or fp32, fp16, bf16 (default: its own; with --params, each)",
    "moment_dtype": "the optimizer's moment_dtype; fp32 and bf16 are short names (default: %(default)s)",
    "writeback": "how updates reach the parameters; in_place if the device is the CPU (default: %(default)s)",
    "skip_nonfinite": "the optimizer's skip_nonfinite: gradients wait for their norm",
    "shard_states": "the optimizer's shard_states: the devices share the states; needs --devices of at least 2",
    "json": "print the numbers as JSON",
}
ROW = "{:20}" + 9 * "{:>10}"
NOTES = """
Gradients: if all exist at once. Activations come on top.
Update, computed: the transfers on the link, then the traffic in host memory, at the speeds above.
Adam, float32 states: an Adam on the device with float32 moments and masters, for comparison."""
FITS = {True: "fits", False: "does not fit"}


def add_options(parser):
    parser.set_defaults(**DEFAULTS)
    source = parser.add_mutually_exclusive_group(required=True)
    kinds = {**SOURCES, **{name: option(numbers) for name, numbers in RANGES.items()}}
    for name, choices in {"dtype": ELEMENT_TYPES, **CHOICES}.items():
        kinds[name] = {"type": lambda text: SHORT_DTYPES.get(text, text), "choices": choices}
    for name, text in OPTIONS.items():
        kind = kinds.get(name, {"action": "store_true"})
        group = source if name in SOURCES else parser
        group.add_argument(f"--{name.replace('_', '-')}", help=text, **kind)


def run(arguments):
    """Prints what each optimizer needs, for each dtype that was asked for."""
    if arguments.checkpoint is not None:
        parameters, others = sizes.of_checkpoint(arguments.checkpoint)
    else:
        parameters, others = arguments.params or sizes.of_net(arguments.net), {}
    count, names = arguments.params, list(ELEMENT_TYPES)
    if count is None:
        count = sum(size.size for size in parameters)
        names = [" and ".join(sorted({size.dtype for size in parameters}))]
    if arguments.dtype:
        names = [arguments.dtype]
    speed, how = (arguments.host_gb_s, "as given") if arguments.host_gb_s else _measured_speed()
    available = machine.available_memory()
    settings = {**{name: getattr(arguments, name) for name in DEFAULTS}, "host_gb_s": speed}
    limits = {**settings, "host_memory": arguments.host_memory or available}
    try:
        # Parameters of several dtypes keep them.
        tables = {name: estimate(parameters, name if name in ELEMENT_TYPES else None, **limits) for name in names}
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error
    if arguments.json:
        report = {"parameters": count, "tensors_not_counted": others, **settings, "available_bytes": available}
        report["footprints"] = {name: [_as_dict(each) for each in table] for name, table in tables.items()}
        print(json.dumps(report, indent=2))
        return 0
    source = arguments.net or arguments.checkpoint
    print(f"{count:,} parameters" + (f" in {len(parameters):,} tensors of {source!r}" if source else ""))
    if others:
        print("Not counted: " + ", ".join(f"{number:,} tensors of {dtype}" for dtype, number in others.items()))
    print(f"Host memory: {f'{speed:.1f} GB/s' if speed else 'unknown speed'}, {how}. ", end="")
    print(f"Link: {arguments.link_gb_s:g} GB/s. Devices on this host: {arguments.devices}.")
    shared = ", shared by the devices" if arguments.shard_states else ""
    print(f"States of AdamOffload: {arguments.moment_dtype} moments{shared}.")
    if arguments.model_parallel > 1:
        print(f"Model parallel: a device has one of {arguments.model_parallel} slices of each parameter.")
    for name, footprints in tables.items():
        _print_table(name, footprints, arguments.devices)
    print(NOTES)
    for name, (ours, *_) in tables.items():
        _print_fit(name, ours, arguments, available)
    return 0


def _measured_speed():
    try:
        from mindspore_offload.planning.memory_speed import memory_speed

        return memory_speed(), "measured in the fastest step of the native kernel"
    except native_library.NativeLibraryError:
        return None, "because the native library can't be used ('doctor' shows why); give --host-gb-s"


def _as_dict(footprint):
    return {**vars(footprint), "device": footprint.device, "host": footprint.host}


def _print_table(name, footprints, devices):
    print(f"\n{name:20}{'on each device':^40}{'on the host':^20}{'link, each step':^20}{'update':>10}")
    print(ROW.format("", "weights", "gradients", "states", "total", "each", "all", "to host", "to device", "at least"))
    for each in footprints:
        if each.refused:
            print(f"{each.optimizer:20}   {each.refused}")
            continue
        cells = [each.device_weights, each.device_gradients, each.device_states, each.device]
        cells += [each.host, each.host * devices, each.to_host, each.to_device]
        seconds = "-" if each.seconds is None else time_text(each.seconds)
        print(ROW.format(each.optimizer, *map(byte_text, cells), seconds))


def _print_fit(name, ours, arguments, available):
    if arguments.device_memory is not None:
        needed, limit = byte_text(ours.device), byte_text(arguments.device_memory)
        if arguments.activations:
            needed += f" and {byte_text(arguments.activations)} for activations"
        how = "with {}" if arguments.offload_ratio is not None else "from {} on" if ours.fits_device else "even with {}"
        ratio = how.format(f"offload_ratio={math.ceil(1e4 * ours.offload_ratio) / 1e4:g}")  # a lower one might not fit
        print(f"{name}: each device needs {needed}, of {limit}: it {FITS[ours.fits_device]} {ratio}.")
    has = f"and {byte_text(available)} are available on this machine now"
    if arguments.host_memory is not None:
        has = f"of {byte_text(arguments.host_memory)}"
    needed = byte_text(ours.host * arguments.devices)
    print(f"{name}: AdamOffload needs {needed} of host memory, {has}: it {FITS[ours.fits_host]}.")
    if ours.interconnect:
        print(f"{name}: in a step, each device receives {byte_text(ours.interconnect)} of results from the others.")
        print("The time of the update does not include that, nor the AllReduce of the gradients.")
