# SPDX-License-Identifier: Apache-2.0

"""``estimate``: prints how many bytes training needs, where, and how long an update takes at least."""

import dataclasses
import json
import math

from mindspore_offload import machine, native_library
from mindspore_offload.commands.common import positive, whole_number, whole_number_or_0
from mindspore_offload.commands.units import BYTE_UNITS, TIME_UNITS, memory, parameter_count, with_unit
from mindspore_offload.errors import CommandError
from mindspore_offload.formats import ELEMENT_TYPES
from mindspore_offload.planning import sizes
from mindspore_offload.planning.estimation import MOMENT_DTYPES, estimate

HELP = "prints the memory on device and host, the transfers and the time that an update needs, by optimizer and dtype"

LINK_GB_S = 25.0  # PCI Express 4.0 with 16 lanes, in practice
SHORT_DTYPES = {row.abbreviation: row.name for row in ELEMENT_TYPES.values()}


def add_options(parser):
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--params", type=parameter_count, metavar="N", help="the number of parameters, for example 7e9, 7B or 350M"
    )
    source.add_argument(
        "--checkpoint", metavar="FILE", help="a checkpoint of the model: a .ckpt of MindSpore or a .safetensors file"
    )
    source.add_argument(
        "--net",
        metavar="MODULE:FUNCTION",
        help="a function that returns the net; SCRIPT.py:FUNCTION works too. It is called without arguments",
    )
    parser.add_argument(
        "--dtype",
        type=_full_dtype,
        choices=ELEMENT_TYPES,
        help="train the parameters in this dtype; fp32, fp16 and bf16 are short names "
        "(default: the dtype that they have; with --params, a table for each dtype)",
    )
    parser.add_argument(
        "--writeback",
        choices=("assign", "in_place"),
        default="assign",
        help="how updates reach the parameters; choose in_place if the device is the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--max-grad-norm", type=positive, metavar="X", help="clip gradients, as the optimizer's max_grad_norm does"
    )
    parser.add_argument(
        "--skip-nonfinite",
        action="store_true",
        help="skip steps with infinite or NaN gradients, as the optimizer's skip_nonfinite does",
    )
    parser.add_argument(
        "--min-offload-size",
        type=whole_number_or_0,
        default=0,
        metavar="N",
        help="keep the states of parameters with fewer elements on the device, as the optimizer's min_offload_size "
        "does; needs --net or --checkpoint",
    )
    parser.add_argument(
        "--offload-ratio",
        type=float,
        metavar="X",
        help="the share of the states on the host, as the optimizer's offload_ratio (default: 1.0; with "
        "--device-memory, the smallest that fits)",
    )
    parser.add_argument(
        "--device-memory",
        type=memory,
        metavar="SIZE",
        help="the memory of each device, for example 64GB or 80GiB",
    )
    parser.add_argument(
        "--host-memory",
        type=memory,
        metavar="SIZE",
        help="the memory of the host, for example 1.5TB (default: what is available on this machine now)",
    )
    parser.add_argument(
        "--activations",
        type=memory,
        default=0,
        metavar="SIZE",
        help="leave so much of --device-memory for activations and for MindSpore (default: 0)",
    )
    parser.add_argument(
        "--devices",
        type=whole_number,
        default=1,
        metavar="N",
        help="the number of devices that share this host, each with its own optimizer (default: %(default)s)",
    )
    parser.add_argument(
        "--moment-dtype",
        type=_full_dtype,
        choices=MOMENT_DTYPES,
        default="float32",
        help="keep the moments on the host in this dtype, as the optimizer's moment_dtype does; fp32 and bf16 are "
        "short names (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-states",
        action="store_true",
        help="let the devices share the states, as the optimizer's shard_states does; needs --devices of at least 2",
    )
    parser.add_argument(
        "--link-gb-s",
        type=positive,
        default=LINK_GB_S,
        metavar="X",
        help="the speed of each device's link, in 1e9 bytes per second (default: %(default)s)",
    )
    parser.add_argument(
        "--host-gb-s",
        type=positive,
        metavar="X",
        help="the speed of host memory, in 1e9 bytes per second (default: measured on this machine)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _full_dtype(text):
    """Returns the name of a dtype that may be given by its short name."""
    return SHORT_DTYPES.get(text, text)


def run(arguments):
    """Prints what each optimizer needs, for each dtype that was asked for."""
    if arguments.params and arguments.min_offload_size:
        raise CommandError(
            "--min-offload-size needs the sizes of the parameters, and --params gives only their number; "
            "give --net or --checkpoint"
        )
    if arguments.shard_states and arguments.devices < 2:
        raise CommandError(
            f"--shard-states needs several devices that share the states, and --devices is {arguments.devices}; "
            f"give --devices"
        )
    if arguments.params:
        parameters, count, others = arguments.params, arguments.params, {}
        dtypes = [arguments.dtype] if arguments.dtype else list(ELEMENT_TYPES)
        source = ""
    else:
        if arguments.net is not None:
            parameters, others = sizes.of_net(arguments.net), {}
        else:
            parameters, others = sizes.of_checkpoint(arguments.checkpoint)
        count, dtypes = sum(size.size for size in parameters), [arguments.dtype]
        source = f" in {len(parameters):,} tensors of {arguments.net or arguments.checkpoint!r}"
    speed, how = (arguments.host_gb_s, "as given") if arguments.host_gb_s else _measured_speed()
    available = machine.available_memory()
    tables = {}
    for dtype in dtypes:
        try:
            tables[dtype or _dtypes(parameters)] = estimate(
                parameters,
                dtype,
                writeback=arguments.writeback,
                max_grad_norm=arguments.max_grad_norm,
                skip_nonfinite=arguments.skip_nonfinite,
                min_offload_size=arguments.min_offload_size,
                offload_ratio=arguments.offload_ratio,
                moment_dtype=arguments.moment_dtype,
                shard_states=arguments.shard_states,
                devices=arguments.devices,
                link_gb_s=arguments.link_gb_s,
                host_gb_s=speed,
                device_memory=arguments.device_memory,
                host_memory=available if arguments.host_memory is None else arguments.host_memory,
                activations=arguments.activations,
            )
        except (TypeError, ValueError) as error:
            raise CommandError(str(error)) from error
    if arguments.json:
        print(json.dumps(_as_json(arguments, count, others, speed, available, tables), indent=2))
        return 0
    print(f"{count:,} parameters{source}")
    if others:
        print("Not counted: " + ", ".join(f"{number:,} tensors of {dtype}" for dtype, number in others.items()))
    print(f"Host memory: {f'{speed:.1f} GB/s' if speed else 'unknown speed'}, {how}. ", end="")
    print(f"Link: {arguments.link_gb_s:g} GB/s. Devices on this host: {arguments.devices}.")
    shared = ", shared by the devices" if arguments.shard_states else ""
    print(f"States of AdamOffload: {arguments.moment_dtype} moments{shared}.")
    for dtype, footprints in tables.items():
        _print_table(dtype, footprints, arguments.devices)
    _print_fit(tables, arguments, available)
    return 0


def _dtypes(parameters):
    return " and ".join(sorted({size.dtype for size in parameters}))


def _measured_speed():
    try:
        from mindspore_offload.planning.memory_speed import memory_speed

        return memory_speed(), "measured in the fastest step of the native kernel"
    except native_library.NativeLibraryError:
        return None, "because the native library can't be used ('doctor' shows why); give --host-gb-s"


def _print_table(dtype, footprints, devices):
    print(f"\n{dtype:20}{'on each device':^40}{'on the host':^20}{'link, each step':^20}{'update':>10}")
    print(f"{'':20}{'weights':>10}{'gradients':>10}{'states':>10}{'total':>10}", end="")
    print(f"{'each':>10}{'all':>10}{'to host':>10}{'to device':>10}{'at least':>10}")
    for footprint in footprints:
        if footprint.refused:
            print(f"{footprint.optimizer:20}   {footprint.refused}")
            continue
        cells = [footprint.device_weights, footprint.device_gradients, footprint.device_states, footprint.device]
        cells += [footprint.host, footprint.host * devices, footprint.to_host, footprint.to_device]
        seconds = "-" if footprint.seconds is None else with_unit(footprint.seconds, TIME_UNITS)
        print(f"{footprint.optimizer:20}" + "".join(f"{with_unit(size, BYTE_UNITS):>10}" for size in cells), end="")
        print(f"{seconds:>10}")


def _print_fit(tables, arguments, available):
    print("\nGradients: if all exist at once. Activations come on top.")
    print("Update, computed: the transfers on the link, then the traffic in host memory, at the speeds above.")
    print("Adam, float32 states: an Adam on the device with float32 moments and masters, for comparison.")
    for dtype, (ours, *_) in tables.items():
        if arguments.device_memory is not None:
            _print_device_fit(dtype, ours, arguments)
        needed = with_unit(ours.host * arguments.devices, BYTE_UNITS)
        if arguments.host_memory is None:
            has = f"and {with_unit(available, BYTE_UNITS)} are available on this machine now"
        else:
            has = f"of {with_unit(arguments.host_memory, BYTE_UNITS)}"
        print(f"{dtype}: AdamOffload needs {needed} of host memory, {has}: it {_verdict(ours.fits_host)}.")
        if ours.interconnect:
            received = with_unit(ours.interconnect, BYTE_UNITS)
            print(f"{dtype}: in a step, each device receives {received} of results from the others.")
            print("The time of the update does not include that, nor the AllReduce of the gradients.")


def _print_device_fit(dtype, ours, arguments):
    needed, has = with_unit(ours.device, BYTE_UNITS), with_unit(arguments.device_memory, BYTE_UNITS)
    if arguments.activations:
        needed += f" and {with_unit(arguments.activations, BYTE_UNITS)} for activations"
    ratio = f"offload_ratio={math.ceil(1e4 * ours.offload_ratio) / 1e4:g}"  # a lower one might not fit
    if arguments.offload_ratio is not None:
        how = f"with {ratio}"
    else:
        how = f"from {ratio} on" if ours.fits_device else f"even with {ratio}"
    print(f"{dtype}: each device needs {needed}, of {has}: it {_verdict(ours.fits_device)} {how}.")


def _verdict(fits):
    return "fits" if fits else "does not fit"


def _as_json(arguments, count, others, speed, available, tables):
    return {
        "parameters": count,
        "tensors_not_counted": others,
        "devices": arguments.devices,
        "moment_dtype": arguments.moment_dtype,
        "shard_states": arguments.shard_states,
        "link_gb_s": arguments.link_gb_s,
        "host_gb_s": speed,
        "available_bytes": available,
        "device_memory": arguments.device_memory,
        "host_memory": arguments.host_memory,
        "activations": arguments.activations,
        "footprints": {
            dtype: [{**dataclasses.asdict(each), "device": each.device, "host": each.host} for each in footprints]
            for dtype, footprints in tables.items()
        },
    }
