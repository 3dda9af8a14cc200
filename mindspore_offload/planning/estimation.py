# SPDX-License-Identifier: Apache-2.0

"""``estimate``: how many bytes training with Adam needs, where, and how long an update takes at least."""

from collections.abc import Iterable
from fractions import Fraction
from numbers import Number
from typing import Any, Callable, NamedTuple, NoReturn, Optional, Union

from mindspore_offload import placement
from mindspore_offload.errors import refuse, typed
from mindspore_offload.formats import ELEMENT_TYPES, LEAST_CODED, MOMENT_FORMATS, one_of
from mindspore_offload.planning import footprint
from mindspore_offload.planning.footprint import Footprint, Size


class Range(NamedTuple):
    """The numbers that an argument may be.

    Attributes:
        kind (str): ``"number"``, ``"whole number"`` or ``"number of bytes"``.
        least (float), most (float): The bounds, both included.
    """

    kind: str
    least: float
    most: float = 10**18  # more are a mistake, and so many parameters may have more bytes than a float holds

    def has(self, number: Any) -> bool:
        """Returns True for a number in this range."""
        is_number, is_whole = isinstance(number, Number), self.kind == "whole number"
        return is_number and self.least <= number <= self.most and (not is_whole or number % 1 == 0)

    def __str__(self) -> str:
        return f"a {self.kind} from {self.least:g} to {self.most:g}"


COUNT, SPEED, BYTES = Range("whole number", 1), Range("number", 1e-9), Range("number of bytes", 1)
RANGES = {
    "max_grad_norm": Range("number", 2.0**-126),  # the smallest that the optimizer accepts
    "min_offload_size": Range("whole number", 0),
    "offload_ratio": Range("number", 0, 1),
    "devices": COUNT,
    "model_parallel": COUNT,
    "link_gb_s": SPEED,
    "host_gb_s": SPEED,
    "device_memory": BYTES,
    "host_memory": BYTES,
    "activations": Range("number of bytes", 0),
}
CHOICES = {"writeback": ("assign", "in_place"), "moment_dtype": tuple(MOMENT_FORMATS)}


def estimate(
    parameters: Union[float, Iterable[Any]],
    dtype: Optional[str] = None,
    *,
    writeback: str = "assign",
    max_grad_norm: Optional[float] = None,
    skip_nonfinite: bool = False,
    min_offload_size: int = 0,
    offload_ratio: Optional[float] = None,
    moment_dtype: str = "float32",
    shard_states: bool = False,
    devices: int = 1,
    model_parallel: int = 1,
    link_gb_s: Optional[float] = None,
    host_gb_s: Optional[float] = None,
    device_memory: Optional[float] = None,
    host_memory: Optional[float] = None,
    activations: float = 0,
) -> tuple[Footprint, ...]:
    """Estimates the bytes and the time of an update for this package and for Adam elsewhere.

    The others are `mindspore.nn.AdamOffload`, `mindspore.nn.Adam`, and an Adam on the device that keeps float32 moments
    and float32 masters there. MindSpore has no such Adam: it is listed for comparison.

    Activations and MindSpore's own memory come on top. So do the gradients and results of one bucket on the host: at
    most 32 MiB of each, or the largest tensor.

    Args:
        parameters (Union[int, float, Iterable[Parameter]]): The number of parameters, or the parameters themselves:
            any objects with `size` and `dtype`, and `ndim` if it is not 2. A number counts as one large matrix.
        dtype (str): The dtype that the parameters are trained in: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
            Default: ``None`` , the dtype that they have, and float32 for a number.

    Keyword Args:
        writeback (str): ``"assign"`` for an accelerator with its own memory, ``"in_place"`` if the device is the CPU.
            Default: ``"assign"`` .
        max_grad_norm (float), skip_nonfinite (bool), min_offload_size (int): Arguments of the optimizer. With one of
            the first two, all gradients wait on the host for their norm. A `min_offload_size` needs the parameters
            themselves. Default: ``None`` , ``False`` , ``0`` .
        offload_ratio (float): The argument of the optimizer. A number of parameters is divided exactly in this ratio,
            parameters only as whole ones. Default: ``None`` : the smallest ratio that fits into `device_memory`, and
            1.0 if none does or `device_memory` is not given.
        moment_dtype (str): The dtype of the moments of `AdamOffload` on the host, ``"float32"``, ``"bfloat16"`` or
            ``"uint8"``. Default: ``"float32"`` .
        shard_states (bool): Whether the devices share the states of `AdamOffload`: each holds and updates one piece of
            each large parameter, and they gather the results. Needs several `devices`. Default: ``False`` .
        devices (int): Number of devices that share the host's memory and its speed. Each has these parameters and its
            own optimizer. Default: ``1`` .
        model_parallel (int): The number of slices that semi-automatic parallel cuts each parameter in. A device has one
            of them, and parameters of one dimension whole. Default: ``1`` .
        link_gb_s (float): Speed of each device's link, in 1e9 bytes per second. Default: ``None`` , unknown.
        host_gb_s (float): Speed of host memory, in 1e9 bytes per second. Default: ``None`` , unknown.
        device_memory, host_memory (float): Bytes of memory of each device, and of the host. With them, the result tells
            what fits. Default: ``None`` , unknown.
        activations (float): Bytes of `device_memory` to leave for activations and for MindSpore. Default: ``0`` .

    Returns:
        tuple[Footprint], in the order above.

    Raises:
        TypeError: If `parameters` is neither a number nor iterable, or a dtype is not one of the three.
        ValueError: If `writeback` or `moment_dtype` is unknown, if a number is out of its range, or if
            `min_offload_size` is given with a number of parameters.
        ValueError: If `shard_states` is True with less than two `devices`.
        ValueError: If `moment_dtype` or `shard_states` would change nothing, because all parameters are too small or
            all states stay on the device.
        ValueError: If `model_parallel` is given with what semi-automatic parallel refuses.
        ValueError: If `device_memory` is given although `writeback` is ``"in_place"``, or `activations` without it.

    Examples:
        >>> from mindspore_offload import estimate
        >>>
        >>> ours, offload, adam, adam_float32 = estimate(7e9, "bfloat16")
        >>> ours.device_states, ours.host_states, adam.device_states, adam_float32.device_states
        (0, 84000000000, 28000000000, 84000000000)
        >>> estimate(7e9, "bfloat16", moment_dtype="bfloat16")[0].host_states
        56000000000
        >>> estimate(7e9, "bfloat16", moment_dtype="uint8")[0].host_states
        42218750000
        >>> ours, *_ = estimate(7e9, "bfloat16", device_memory=64e9, activations=12e9)
        >>> round(ours.offload_ratio, 4), ours.device_states, ours.host_states
        (0.7143, 24000000000, 60000000000)
    """
    _check_values(locals())
    sizes, is_number = _sizes(parameters, dtype), isinstance(parameters, (int, float))
    if min_offload_size and is_number:
        _refuse("min_offload_size", "be 0 for a number of parameters", min_offload_size, "give their sizes")
    if device_memory is not None and writeback == "in_place":
        _refuse("device_memory", "be None if writeback is 'in_place'", device_memory, "all is in host_memory")
    if activations and device_memory is None:
        _refuse("activations", "be 0 without device_memory", activations, "give both")
    if shard_states and devices < 2:
        _refuse("devices", "be a whole number of at least 2 if shard_states is True", devices, "give their number")
    is_clipped = max_grad_norm is not None or skip_nonfinite
    if model_parallel != 1 and (is_clipped or shard_states or MOMENT_FORMATS[moment_dtype].has_codes):
        others = "max_grad_norm, skip_nonfinite, shard_states or moments of codes"
        _refuse("model_parallel", f"be 1 with {others}", model_parallel, "the optimizer refuses them there")
    ranks = int(devices) if shard_states else 1

    def ours_with(ratio: float, moments: str = moment_dtype) -> Footprint:
        placed, is_on_device = _placed(sizes, is_number, min_offload_size, ratio)
        slices = _slices(placed, model_parallel)
        return footprint.count("AdamOffload", slices, is_on_device, moments, is_clipped, ranks)

    ratio = 1.0 if offload_ratio is None else offload_ratio
    ours = ours_with(ratio)
    if moment_dtype != "float32" and not ours.host_states:
        must = "be 'float32' if offload_ratio or min_offload_size keeps all states on the device"
        _refuse("moment_dtype", must, moment_dtype, "leave it out")
    if moment_dtype != "float32" and ours.host_states == ours_with(ratio, "float32").host_states:
        others = one_of(repr(row.name) for row in MOMENT_FORMATS.values() if not row.has_codes)
        must = f"be {others} if no parameter has {LEAST_CODED:,} elements and two dimensions"
        _refuse("moment_dtype", must, moment_dtype, "smaller ones keep float32 moments")
    if shard_states and not ours.interconnect:
        must = "be False if no offloaded parameter is large enough to be cut"
        _refuse("shard_states", must, shard_states, "leave it out")
    if offload_ratio is None and device_memory is not None:
        room, total = device_memory - activations, sum(size.size for size in sizes)
        ours = ours_with(_smallest_ratio(total, lambda ratio: ours_with(ratio).device <= room))
    footprints = (ours, *footprint.others(_slices(sizes, model_parallel)))
    for each in footprints:
        if writeback == "in_place":
            each.move_to_host()
        if device_memory is not None:
            each.fits_device = not each.refused and each.device + activations <= device_memory
        if host_memory is not None:
            each.fits_host = not each.refused and each.host * devices <= host_memory
        each.seconds = _seconds(each, devices, link_gb_s, host_gb_s)
    return footprints


def _check_values(arguments: dict[str, Any]) -> None:
    """Refuses arguments that are wrong whatever the others are."""
    for name, numbers in RANGES.items():
        if arguments[name] is not None and not numbers.has(arguments[name]):
            _refuse(name, f"be {numbers}", arguments[name])
    for name, choices in CHOICES.items():
        if arguments[name] not in choices:
            _refuse(name, f"be {one_of(map(repr, choices))}", arguments[name])


def _seconds(each: Footprint, devices: int, link_gb_s: Optional[float], host_gb_s: Optional[float]) -> Optional[float]:
    """Returns the time of an update at these speeds; None if it can't be told."""
    crossing = each.to_host + each.to_device
    if not each.host_traffic or not host_gb_s or (crossing and not link_gb_s):
        return None
    link = crossing / link_gb_s if link_gb_s else 0
    return (link + each.host_traffic * devices / host_gb_s) / 1e9


def _refuse(argument: str, must: str, got: Any, cure: str = "") -> NoReturn:
    refuse(ValueError, "estimate", f"argument '{argument}'", must, f"{got!r:.60}", cure)


def _slices(sizes: list[Size], number: int) -> list[Size]:
    """Returns what a device has of parameters that are cut in a number of slices."""
    return [size._replace(size=-(-size.size // number)) if size.ndim >= 2 else size for size in sizes]


def _placed(sizes: list[Size], is_number: bool, min_offload_size: int, ratio: float) -> tuple[list[Size], list[bool]]:
    """Returns the sizes, and for each whether its states stay on the device. A number is divided in two sizes."""
    if not is_number:
        return sizes, placement.kept_on_device([size.size for size in sizes], min_offload_size, ratio)
    (whole,) = sizes
    offloaded = round(Fraction(ratio) * whole.size)
    return [whole._replace(size=whole.size - offloaded), whole._replace(size=offloaded)], [True, False]


def _smallest_ratio(total: int, fits: Callable[[float], bool]) -> float:
    """Returns the smallest ratio of `total` elements for which `fits` is True; 1.0 if there is none.

    Less fits on the device the lower the ratio is, so the search halves the range.
    """
    low, high = 0, total
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle / total) else (middle + 1, high)
    return low / total


def _sizes(parameters: Union[float, Iterable[Any]], dtype: Optional[str]) -> list[Size]:
    """Returns the parameters as Sizes, of `dtype` if it is given."""
    if isinstance(parameters, (int, float)):
        if not COUNT.has(parameters):
            _refuse("parameters", f"be {COUNT}", parameters)
        sizes = [Size("all", int(parameters), "float32")]
    else:
        try:
            sizes = [Size.of(parameter) for parameter in parameters]
        except (AttributeError, TypeError):
            cure = "for a net, give net.trainable_params()"
            refuse(TypeError, "estimate", "argument 'parameters'", "be a number or parameters", typed(parameters), cure)
    for size in sizes:
        if (size.dtype if dtype is None else dtype) not in ELEMENT_TYPES:
            must = f"be one of {list(ELEMENT_TYPES)} for the parameter '{size.name}' of {size.dtype}"
            refuse(TypeError, "estimate", "argument 'dtype'", must, repr(dtype))
    return [size._replace(dtype=dtype or size.dtype) for size in sizes]
