# SPDX-License-Identifier: Apache-2.0

"""Tries training steps, and times them."""

from mindspore_offload import machine
from mindspore_offload.diagnosis import step_speed, training_check
from mindspore_offload.diagnosis.finding import FAILED, NOTE, OK, SKIPPED, WARNING, Finding
from mindspore_offload.formats import EXACT, MOMENT_FORMATS
from mindspore_offload.planning.memory_speed import BYTES_A_PARAMETER


def check(device, has_library):
    """Yields findings about the defaults, about what can be asked for, and about the time of a step."""
    default = _step("auto, auto", {}, FAILED, "the findings above may be the cause")
    if default.state == OK and not has_library:
        default = default._replace(text=f"{default.text}, by MindSpore's own, slower operations")
    yield default
    for name, arguments, cure in _choices(device):
        if arguments["host_kernel"] == "native" and not has_library:
            yield Finding("training step", SKIPPED, f"{name}: without the native library")
        else:
            yield _step(name, arguments, WARNING, cure)
    if default.state != OK:
        yield Finding("speed", SKIPPED, "not measured without a right step")
    elif machine.available_memory() < 2 * step_speed.BYTES:
        yield Finding("speed", SKIPPED, f"a step to be timed needs {2 * step_speed.BYTES / 1e9:.1f} GB of memory")
    else:
        yield from _speed(device)


def _choices(device):
    """Yields the name, the arguments of the optimizer, and the cure of each host operation, writeback and moment."""
    for host_kernel, other in (("native", "stock"), ("stock", "native")):
        for writeback in ("in_place", "assign") if device == "CPU" else ("assign",):
            arguments = {"host_kernel": host_kernel, "writeback": writeback}
            yield ", ".join(arguments.values()), arguments, f"use host_kernel='{other}'"
    for moments in MOMENT_FORMATS.values():
        if moments.is_stochastic:
            arguments = {"host_kernel": "native", "moment_dtype": moments.name}
            yield f"{moments.name} moments", arguments, f"use moment_dtype=mindspore.{EXACT.name}"


def _step(name, arguments, bad, cure):
    wrong = training_check.failures(**arguments)
    if wrong:
        return Finding("training step", bad, f"{name}: " + "; ".join(f"{d}: {what}" for d, what in wrong.items()), cure)
    return Finding("training step", OK, f"{name}: float32, float16 and bfloat16 weights as with nn.Adam")


def _speed(device):
    seconds = step_speed.seconds_of_a_step()
    nanoseconds = seconds / step_speed.PARAMS * 1e9
    text = f"{seconds * 1e3:.1f} ms a step of {step_speed.PARAMS:,} float32 parameters, {nanoseconds:.2f} ns each"
    if device == "CPU":  # elsewhere the link is part of the time
        yield Finding("speed", OK, f"{text}, {BYTES_A_PARAMETER / nanoseconds:.1f} GB/s")
        text = "less than 1.0 saves no time on the CPU device, where host and device share their memory"
        yield Finding("offload_ratio", NOTE, text)
        return
    yield Finding("speed", OK, text)
    without = step_speed.seconds_of_a_step(0.0)
    for ratio, total in ((1.0, seconds), (0.5, step_speed.seconds_of_a_step(0.5))):
        parts = step_speed.parts_of_a_step(ratio, total, without)
        total, host, on_device, rest = (f"{1e3 * each:.1f}" for each in (total, *parts))
        text = f"{ratio}: {total} ms a step; host {host}, the kernel alone; device {on_device}, its share of a step "
        text += f"without offloading; the rest {rest}, computed as the difference: link and launches"
        yield Finding("offload_ratio", OK, text)
