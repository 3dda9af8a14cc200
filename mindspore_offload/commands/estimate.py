"""``estimate``: will it fit, in a table of bytes and of the least time that they take."""

import dataclasses
import json

from mindspore_offload import machine, native_library
from mindspore_offload.commands import sizes
from mindspore_offload.commands.options import positive, whole_number, whole_number_or_0
from mindspore_offload.footprint import BYTES, estimate

HELP = "the bytes that a model's training takes on accelerator, host and link, by optimizer and dtype"

LINK_GB_S = 25.0  # what PCI Express 4.0 with 16 lanes gives in practice


def add_options(parser):
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--params", type=whole_number, metavar="N", help="number of parameters, as 7e9")
    source.add_argument("--checkpoint", metavar="FILE", help="a .ckpt of MindSpore, or a .safetensors, of the model")
    source.add_argument("--net", metavar="MODULE:FUNCTION", help="what returns the net; may be SCRIPT.py:FUNCTION")
    parser.add_argument(
        "--dtype", choices=BYTES, help="of the parameters (default: as they are; of a number, all three in turn)"
    )
    parser.add_argument(
        "--writeback",
        choices=("assign", "in_place"),
        default="assign",
        help="in_place where the device is the CPU (default: %(default)s)",
    )
    parser.add_argument("--max-grad-norm", type=positive, metavar="X", help="as the optimizer's argument")
    parser.add_argument("--skip-nonfinite", action="store_true", help="as the optimizer's argument")
    parser.add_argument("--min-offload-size", type=whole_number_or_0, default=0, metavar="N", help="likewise")
    parser.add_argument(
        "--devices", type=whole_number, default=1, metavar="N", help="how many share this host (default: %(default)s)"
    )
    parser.add_argument(
        "--link-gb-s",
        type=positive,
        default=LINK_GB_S,
        metavar="X",
        help="speed of each device's link, 1e9 bytes a second (default: %(default)s)",
    )
    parser.add_argument(
        "--host-gb-s", type=positive, metavar="X", help="speed of host memory (default: this machine's, measured)"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(arguments):
    """Prints what an optimizer takes, for each dtype that was asked for."""
    if arguments.params:
        parameters, count = arguments.params, arguments.params
        dtypes = [arguments.dtype] if arguments.dtype else list(BYTES)
        source = ""
    else:
        found = sizes.of_net(arguments.net) if arguments.net else sizes.of_checkpoint(arguments.checkpoint)
        parameters, count, dtypes = found, sum(size.size for size in found), [arguments.dtype]
        source = f" in {len(found):,} tensors of {arguments.net or arguments.checkpoint}"
    speed, how = (arguments.host_gb_s, "as given") if arguments.host_gb_s else _measured_speed()
    tables = {}
    for dtype in dtypes:
        tables[dtype or _names(parameters)] = estimate(
            parameters,
            dtype,
            writeback=arguments.writeback,
            max_grad_norm=arguments.max_grad_norm,
            skip_nonfinite=arguments.skip_nonfinite,
            min_offload_size=arguments.min_offload_size,
            devices=arguments.devices,
            link_gb_s=arguments.link_gb_s,
            host_gb_s=speed,
        )
    available = machine.available_memory()
    if arguments.json:
        print(json.dumps(_as_json(arguments, count, speed, available, tables), indent=2))
        return 0
    print(f"{count:,} parameters{source}, in GB of 1e9 bytes")
    print(f"Host memory at {f'{speed:.1f} GB/s' if speed else 'an unknown speed'}, {how}; ", end="")
    print(f"link at {arguments.link_gb_s:g} GB/s; {arguments.devices} device(s) on this host")
    for dtype, footprints in tables.items():
        _print_table(dtype, footprints, arguments.devices)
    _print_fit(tables, arguments.devices, available)
    return 0


def _names(parameters):
    return " and ".join(sorted({size.dtype for size in parameters}))


def _measured_speed():
    try:
        from mindspore_offload.commands.bare_loop import memory_speed

        return memory_speed(), "measured by a loop like the kernel's"
    except native_library.NativeLibraryError:
        return None, "because there is no native library to measure it ('doctor' says why); give --host-gb-s"


def _print_table(dtype, footprints, devices):
    print(f"\n{dtype:16}{'on each device':^40}{'on the host':^22}{'link, a step':^20}{'update, s':>10}")
    print(f"{'':16}{'weights':>10}{'gradients':>10}{'states':>10}{'all':>10}", end="")
    print(f"{'each':>11}{'all':>11}{'to host':>10}{'to device':>10}{'at least':>10}")
    for footprint in footprints:
        if footprint.refused:
            print(f"{footprint.optimizer:16}{footprint.refused:>40}")
            continue
        cells = [footprint.device_weights, footprint.device_gradients, footprint.device_states, footprint.device]
        print(f"{footprint.optimizer:16}" + "".join(f"{size / 1e9:10.3f}" for size in cells), end="")
        print(f"{footprint.host / 1e9:11.3f}{footprint.host * devices / 1e9:11.3f}", end="")
        print(f"{footprint.to_host / 1e9:10.3f}{footprint.to_device / 1e9:10.3f}", end="")
        print(f"{'-' if footprint.seconds is None else f'{footprint.seconds:.3f}':>10}")


def _print_fit(tables, devices, available):
    print("\nGradients: if all are there at once. Update: the link and then host memory, at those speeds.")
    print("Activations come on top.")
    for dtype, footprints in tables.items():
        needed = footprints[0].host * devices
        verdict = "fits" if needed <= available else "does not fit"
        print(
            f"{dtype}: AdamOffload needs {needed / 1e9:.1f} GB of this host, and {available / 1e9:.1f} GB are ", end=""
        )
        print(f"available now: it {verdict}.")


def _as_json(arguments, count, speed, available, tables):
    return {
        "parameters": count,
        "devices": arguments.devices,
        "link_gb_s": arguments.link_gb_s,
        "host_gb_s": speed,
        "available_bytes": available,
        "footprints": {
            dtype: [{**dataclasses.asdict(each), "device": each.device, "host": each.host} for each in footprints]
            for dtype, footprints in tables.items()
        },
    }
