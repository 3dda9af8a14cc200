# SPDX-License-Identifier: Apache-2.0

"""``estimate``: prints how many bytes training needs, where, and how long an update takes at least."""

import dataclasses
import json
import math

from mindspore_offload import machine, native_library
from mindspore_offload.commands.options import memory, parameter_count, positive, whole_number, whole_number_or_0
from mindspore_offload.commands.units import byte_text, time_text
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import sizes
from mindspore_offload.planning.estimation import MOMENT_DTYPES, WRITEBACKS, estimate

HELP = "prints the memory on device and host, the transfers and the time that an update needs, by optimizer and dtype"

SHORT_DTYPES = {row.abbreviation: row.name for row in ELEMENT_TYPES.values()}
DEFAULTS = {**(estimate.__kwdefaults__ or {}), "link_gb_s": 25.0}  # PCI Express 4.0 with 16 lanes, in practice

# One of them has to be given. The type, the name of the value, and the help of each.
SOURCES = {
    "params": (parameter_count, "N", "the number of parameters, for example 7e9, 7B or 350M"),
    "checkpoint": (str, "FILE", "a checkpoint of the model: a .ckpt of MindSpore or a .safetensors file"),
    "net": (str, "MODULE:FUNCTION", "a function without arguments that returns the net, or SCRIPT.py:FUNCTION"),
}
NUMBERS = {
    "max_grad_norm": (positive, "X", "the optimizer's max_grad_norm: gradients wait for their norm"),
    "min_offload_size": (whole_number_or_0, "N", "the optimizer's min_offload_size; needs --net or --checkpoint"),
    "offload_ratio": (float, "X", "the optimizer's offload_ratio (default: the smallest that fits; else 1.0)"),
    "device_memory": (memory, "SIZE", "the memory of each device, for example 64GB or 80GiB"),
    "host_memory": (memory, "SIZE", "the memory of the host (default: what is available on this machine now)"),
    "activations": (memory, "SIZE", "leave so much of --device-memory for activations and for MindSpore"),
    "devices": (whole_number, "N", "the number of devices that share this host, each with its own optimizer"),
    "model_parallel": (whole_number, "N", "the number of slices that semi-automatic parallel makes of a parameter"),
    "link_gb_s": (positive, "X", "the speed of each device's link, in 1e9 bytes per second"),
    "host_gb_s": (positive, "X", "the speed of host memory, in 1e9 bytes per second (default: measured)"),
}
CHOICES = {
    "dtype": (ELEMENT_TYPES, "train in this dtype, or fp32, fp16, bf16 (default: its own; with --params, each)"),
    "moment_dtype": (MOMENT_DTYPES, "the optimizer's moment_dtype; fp32 and bf16 are short names"),
    "writeback": (WRITEBACKS, "how updates reach the parameters; in_place if the device is the CPU"),
}
FLAGS = {
    "skip_nonfinite": "the optimizer's skip_nonfinite: gradients wait for their norm",
    "shard_states": "the optimizer's shard_states: the devices share the states; needs --devices of at least 2",
    "json": "print the numbers as JSON",
}


def add_options(parser):
    source = parser.add_mutually_exclusive_group(required=True)
    for name, (kind, value, text) in SOURCES.items():
        source.add_argument(f"--{name}", type=kind, metavar=value, help=text)
    for name, (kind, value, text) in NUMBERS.items():
        _add(parser, name, text, type=kind, metavar=value)
    for name, (choices, text) in CHOICES.items():
        _add(parser, name, text, type=_full_dtype, choices=choices)
    for name, text in FLAGS.items():
        _add(parser, name, text, action="store_true")


def _add(parser, name, text, **settings):
    """Adds an option, by default as the argument of the function."""
    default = DEFAULTS.get(name)
    shown = f"{text} (default: {default})" if default else text
    parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=shown, **settings)


def _full_dtype(text):
    """Returns the name of a dtype that may be given by its short name."""
    return SHORT_DTYPES.get(text, text)


def run(arguments):
    """Prints what each optimizer needs, for each dtype that was asked for."""
    parameters, others = _parameters(arguments)
    speed, how = (arguments.host_gb_s, "as given") if arguments.host_gb_s else _measured_speed()
    available = machine.available_memory()
    settings = {name: getattr(arguments, name) for name in DEFAULTS}
    settings.update(host_gb_s=speed, host_memory=arguments.host_memory or available)
    if arguments.params:
        dtypes = {dtype: dtype for dtype in ([arguments.dtype] if arguments.dtype else ELEMENT_TYPES)}
    else:
        dtypes = {arguments.dtype or " and ".join(sorted({size.dtype for size in parameters})): arguments.dtype}
    try:
        tables = {name: estimate(parameters, dtype, **settings) for name, dtype in dtypes.items()}
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error
    count = arguments.params or sum(size.size for size in parameters)
    if arguments.json:
        print(json.dumps(_as_json(arguments, count, others, speed, available, tables), indent=2))
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
    print("\nGradients: if all exist at once. Activations come on top.")
    print("Update, computed: the transfers on the link, then the traffic in host memory, at the speeds above.")
    print("Adam, float32 states: an Adam on the device with float32 moments and masters, for comparison.")
    for name, (ours, *_) in tables.items():
        _print_fit(name, ours, arguments, available)
    return 0


def _parameters(arguments):
    """Returns the number or the sizes of the parameters, and how many other tensors there are by dtype."""
    if arguments.params:
        return arguments.params, {}
    if arguments.net is not None:
        return sizes.of_net(arguments.net), {}
    return sizes.of_checkpoint(arguments.checkpoint)


def _measured_speed():
    try:
        from mindspore_offload.planning.memory_speed import memory_speed

        return memory_speed(), "measured in the fastest step of the native kernel"
    except native_library.NativeLibraryError:
        return None, "because the native library can't be used ('doctor' shows why); give --host-gb-s"


def _print_table(name, footprints, devices):
    print(f"\n{name:20}{'on each device':^40}{'on the host':^20}{'link, each step':^20}{'update':>10}")
    on_device, on_host = ("weights", "gradients", "states", "total"), ("each", "all")
    _print_row("", *on_device, *on_host, "to host", "to device", "at least")
    for each in footprints:
        if each.refused:
            print(f"{each.optimizer:20}   {each.refused}")
            continue
        cells = [each.device_weights, each.device_gradients, each.device_states, each.device]
        cells += [each.host, each.host * devices, each.to_host, each.to_device]
        seconds = "-" if each.seconds is None else time_text(each.seconds)
        _print_row(each.optimizer, *map(byte_text, cells), seconds)


def _print_row(title, *cells):
    print(f"{title:20}" + "".join(f"{cell:>10}" for cell in cells))


def _print_fit(name, ours, arguments, available):
    if arguments.device_memory is not None:
        needed = byte_text(ours.device)
        if arguments.activations:
            needed += f" and {byte_text(arguments.activations)} for activations"
        how = "with" if arguments.offload_ratio is not None else "from" if ours.fits_device else "even with"
        ratio = f"offload_ratio={math.ceil(1e4 * ours.offload_ratio) / 1e4:g}"  # a lower one might not fit
        verdict = f"{_verdict(ours.fits_device)} {how} {ratio}{' on' if how == 'from' else ''}"
        print(f"{name}: each device needs {needed}, of {byte_text(arguments.device_memory)}: it {verdict}.")
    if arguments.host_memory is None:
        has = f"and {byte_text(available)} are available on this machine now"
    else:
        has = f"of {byte_text(arguments.host_memory)}"
    needed = byte_text(ours.host * arguments.devices)
    print(f"{name}: AdamOffload needs {needed} of host memory, {has}: it {_verdict(ours.fits_host)}.")
    if ours.interconnect:
        print(f"{name}: in a step, each device receives {byte_text(ours.interconnect)} of results from the others.")
        print("The time of the update does not include that, nor the AllReduce of the gradients.")


def _verdict(fits):
    return "fits" if fits else "does not fit"


def _as_json(arguments, count, others, speed, available, tables):
    return {
        "parameters": count,
        "tensors_not_counted": others,
        **{name: getattr(arguments, name) for name in DEFAULTS},
        "host_gb_s": speed,
        "available_bytes": available,
        "footprints": {
            name: [{**dataclasses.asdict(each), "device": each.device, "host": each.host} for each in footprints]
            for name, footprints in tables.items()
        },
    }
