# SPDX-License-Identifier: Apache-2.0

"""Real training steps: compared with those of `nn.Adam`, and timed."""

import functools
import timeit
import warnings

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn

from mindspore_offload import AdamOffload, machine
from mindspore_offload.diagnosis.finding import FAILED, NOTE, OK, SKIPPED, WARNING, Finding
from mindspore_offload.errors import one_line
from mindspore_offload.formats import ELEMENT_TYPES, EXACT, MOMENT_FORMATS
from mindspore_offload.planning import memory_speed

SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "loss_scale": 1024.0}

# Weights and gradients have seven bits, so every dtype holds them and one `nn.Adam` answers for all. The gradients of a
# weight keep their sign from step to step, so that the error of rounded moments is bounded by their learning rate.
_INDICES = np.arange(37 * 111).reshape(37, 111)  # large enough for codes, and no multiple of a vector's length
WEIGHTS = (_INDICES % 128 - 64) / 64
GRADIENTS = [factor * (-1) ** _INDICES * (32 + _INDICES % 96) / 64 for factor in (1.0, 0.5, 2.0)]

TIMED_PARAMS = 2**24
TIMED_STEPS = 7


def check(device, has_library):
    """Yields findings about the defaults, about what can be asked for, and about the time of a step."""
    defaults_work = True
    for name, arguments, bad, cure in _choices(device):
        if arguments.get("host_kernel") == "native" and not has_library:
            yield Finding("training step", SKIPPED, f"{name}: without the native library")
        elif wrong := faults(**arguments):
            yield Finding("training step", bad, f"{name}: {'; '.join(wrong)}", cure)
            defaults_work = defaults_work and bad != FAILED
        else:
            how = "" if arguments or has_library else ", by MindSpore's own, slower operations"
            yield Finding("training step", OK, f"{name}: float32, float16 and bfloat16 weights as with nn.Adam{how}")
    needed = 2 * 16 * TIMED_PARAMS  # twice the weights, gradients and moments
    if not defaults_work:
        yield Finding("speed", SKIPPED, "not measured without a right step")
    elif machine.available_memory() < needed:
        yield Finding("speed", SKIPPED, f"a step to be timed needs {needed / 1e9:.1f} GB of memory")
    else:
        yield from _speed(device)


def _choices(device):
    """Yields names and arguments of the optimizer: its defaults, each host operation, writeback and moment format.

    With each, the state and the cure of its fault.
    """
    yield "auto, auto", {}, FAILED, "the findings above may be the cause"
    for host_kernel, other in (("native", "stock"), ("stock", "native")):
        for writeback in ("in_place", "assign") if device == "CPU" else ("assign",):
            arguments = {"host_kernel": host_kernel, "writeback": writeback}
            yield ", ".join(arguments.values()), arguments, WARNING, f"use host_kernel='{other}'"
    for moments in MOMENT_FORMATS.values():
        if moments.is_stochastic:
            arguments = {"host_kernel": "native", "moment_dtype": moments.name}
            yield f"{moments.name} moments", arguments, WARNING, f"use moment_dtype=mindspore.{EXACT.name}"


def faults(moment_dtype="float32", **arguments):
    """Tries steps with these arguments of the optimizer. Returns what is wrong, a text for each dtype at fault."""
    # Both moments are rounded once before the second update and twice before the third. A unit in both moves a weight
    # by 1.5 units of the learning rate: together 4.5, and for the coarsest moments, whose squares count too, below 6.
    slack = 6 * MOMENT_FORMATS[moment_dtype].unit * SETTINGS["learning_rate"]
    found = []
    for dtype in ELEMENT_TYPES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # doctor has reported a library that can't be used
                weights = _trained(dtype, AdamOffload, moment_dtype=getattr(ms, moment_dtype), **arguments)
            error = worst_error(weights, _trained_once("float32", nn.Adam), dtype, slack=slack)
            if error > 1:
                found.append(f"{dtype}: the weights are off by {error:.3g} times the allowed error")
        except Exception as exception:
            found.append(f"{dtype}: {one_line(exception)}")
    return found


def _trained(dtype, optimizer_class, **arguments):
    """Returns the weights after a step for each of the gradients."""
    ms.set_context(mode=ms.GRAPH_MODE)
    net = Product(getattr(ms, dtype))
    optimizer = optimizer_class(net.trainable_params(), **SETTINGS, **arguments)
    train = nn.TrainOneStepCell(net, optimizer, sens=SETTINGS["loss_scale"])
    for gradient in GRADIENTS:
        train(Tensor(gradient, getattr(ms, dtype)))
    return net.weight.astype(ms.float32).asnumpy()


_trained_once = functools.cache(_trained)


class Product(nn.Cell):
    """A net of one weight, whose gradient is its input. MindSpore 2.7.0 can't multiply bfloat16 on the CPU device."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = Parameter(Tensor(WEIGHTS, dtype), name="weight")

    def construct(self, inputs):
        return (self.weight.astype(ms.float32) * inputs.astype(ms.float32)).sum()


def worst_error(actual, expected, dtype, roundings=1, slack=0.0):
    """Returns the largest error of an element, in units of the allowed error.

    Allowed are `slack`, 1e-6 for float32 arithmetic, and half a unit of `dtype` for each time that the value was
    rounded to it.
    """
    sizes = np.abs(np.asarray(expected, np.float64))
    bits_less = ELEMENT_TYPES["float32"].fraction_bits - ELEMENT_TYPES[dtype].fraction_bits
    units = 2**bits_less * np.spacing(sizes.astype(np.float32))
    allowed = slack + 1e-6 * np.maximum(1, sizes) + roundings * units / 2
    errors = np.abs(np.asarray(actual, np.float64) - expected) / allowed
    return errors.max() if np.isfinite(errors).all() else np.inf


def _speed(device):
    """Yields the time of a step. On an accelerator also its parts: host, device, and what is left of it.

    The time of the host is that of the kernel alone, over as many parameters. The time of the device is that of a step
    without offloading, in the share of the parameters that stay there.
    """
    whole = milliseconds_of_a_step()
    nanoseconds = whole / TIMED_PARAMS * 1e6
    text = f"{whole:.1f} ms a step of {TIMED_PARAMS:,} float32 parameters, {nanoseconds:.2f} ns each"
    if device == "CPU":  # elsewhere the link is part of the time
        yield Finding("speed", OK, f"{text}, {memory_speed.BYTES_A_PARAMETER / nanoseconds:.1f} GB/s")
        text = "less than 1.0 saves no time on the CPU device, where host and device share their memory"
        yield Finding("offload_ratio", NOTE, text)
        return
    yield Finding("speed", OK, text)
    without, half = milliseconds_of_a_step(0.0), milliseconds_of_a_step(0.5)
    kernel = 1e3 * memory_speed.seconds_of_a_step(TIMED_PARAMS)
    for ratio, total in ((1.0, whole), (0.5, half)):
        host, on_device = ratio * kernel, (1 - ratio) * without
        rest = total - host - on_device
        text = f"{ratio}: {total:.1f} ms a step; host {host:.1f}, the kernel alone; device {on_device:.1f}, its share "
        text += f"of a step without offloading; the rest {rest:.1f}, computed as the difference: link and launches"
        yield Finding("offload_ratio", OK, text)


def milliseconds_of_a_step(offload_ratio=1.0):
    """Returns the median time of a step of `TIMED_PARAMS` float32 parameters, where training runs it: in a graph."""
    ms.set_context(mode=ms.GRAPH_MODE)
    tensors = [Parameter(Tensor(np.ones(TIMED_PARAMS // 4, np.float32)), name=f"tensor{i}") for i in range(8)]
    step = Step(AdamOffload(tensors[:4], offload_ratio=offload_ratio), tensors[4:])
    seconds = timeit.repeat(step, number=1, repeat=2 + TIMED_STEPS)[2:]  # the first two compile, and allocate
    return 1e3 * np.median(seconds)


class Step(nn.Cell):
    """Runs an optimizer on gradients that the graph holds, as that of a training step does."""

    def __init__(self, optimizer, gradients):
        super().__init__(auto_prefix=False)
        self.optimizer, self.gradients = optimizer, ParameterTuple(gradients)

    def construct(self):
        return self.optimizer(self.gradients)
