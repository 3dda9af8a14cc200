# SPDX-License-Identifier: Apache-2.0

"""``estimate``: how many bytes training with Adam needs, where, and how long an update takes at least."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Callable, NoReturn, Optional, Union

from mindspore_offload.errors import refuse, typed
from mindspore_offload.formats import ELEMENT_TYPES, LEAST_CODED, MOMENT_FORMATS, one_of
from mindspore_offload.planning import footprint, placement
from mindspore_offload.planning.footprint import Footprint, Size

WRITEBACKS, MOMENT_DTYPES = ("assign", "in_place"), tuple(MOMENT_FORMATS)
MOST = 10**18  # parameters, devices: more are a mistake, and their bytes may be more than a float holds
SLOWEST = 1e-9  # in 1e9 bytes per second: the time at a lower speed may be more than a float holds

# The range of each argument, whatever the others are.
_Rule = tuple[Callable[[Any], bool], str]
_POSITIVE: _Rule = (lambda n: n is None or 0 < n <= MOST, f"be greater than 0 and at most {MOST:g}")
_SPEED: _Rule = (lambda n: n is None or SLOWEST < n <= MOST, f"be greater than {SLOWEST:g} and at most {MOST:g}")
_NOT_NEGATIVE: _Rule = (lambda n: 0 <= n <= MOST, f"be from 0 to {MOST:g}")
_RIGHT_ALONE: dict[str, _Rule] = {
    "writeback": (WRITEBACKS.__contains__, f"be {one_of(map(repr, WRITEBACKS))}"),
    "max_grad_norm": _POSITIVE,
    "min_offload_size": _NOT_NEGATIVE,
    "offload_ratio": (lambda n: n is None or 0 <= n <= 1, "be None or from 0.0 to 1.0"),
    "moment_dtype": (MOMENT_DTYPES.__contains__, f"be {one_of(map(repr, MOMENT_DTYPES))}"),
    "devices": _POSITIVE,
    "model_parallel": (lambda n: 1 <= n <= MOST and n % 1 == 0, f"be a whole number from 1 to {MOST:g}"),
    "link_gb_s": _SPEED,
    "host_gb_s": _SPEED,
    "device_memory": _POSITIVE,
    "host_memory": _POSITIVE,
    "activations": _NOT_NEGATIVE,
}


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
    arguments = dict(locals())
    for name, (is_right, must) in _RIGHT_ALONE.items():
        if not is_right(arguments[name]):
            _refuse(name, must, arguments[name])
    sizes, is_number = _sizes(parameters, dtype), isinstance(parameters, (int, float))
    if min_offload_size and is_number:
        _refuse("min_offload_size", "be 0 for a number of parameters", min_offload_size, "give their sizes")
    if device_memory is not None and writeback == "in_place":
        _refuse("device_memory", "be None if writeback is 'in_place'", device_memory, "all is in host_memory")
    if activations and device_memory is None:
        _refuse("activations", "be 0 without device_memory", activations, "give both")
    if shard_states and not (devices >= 2 and devices % 1 == 0):
        _refuse("devices", "be a whole number of at least 2 if shard_states is True", devices, "give their number")
    is_clipped = max_grad_norm is not None or skip_nonfinite
    if model_parallel != 1 and (is_clipped or shard_states or MOMENT_FORMATS[moment_dtype].has_codes):
        others = "max_grad_norm, skip_nonfinite, shard_states or 8-bit moments"
        _refuse("model_parallel", f"be 1 with {others}", model_parallel, "the optimizer refuses them there")

    def ours_with(ratio: float, moments: str = moment_dtype) -> Footprint:
        placed, is_on_device = _placed(sizes, is_number, min_offload_size, ratio)
        ranks = int(devices) if shard_states else 1
        slices = _slices(placed, model_parallel)
        return footprint.count("AdamOffload", slices, is_on_device, moments, is_clipped, ranks)

    ratio = 1.0 if offload_ratio is None else offload_ratio
    ours = ours_with(ratio)
    _check_effect(ours, ours_with(ratio, "float32"), moment_dtype, shard_states)
    if offload_ratio is None and device_memory is not None:
        budget = device_memory - activations
        ours = ours_with(_smallest_ratio(sizes, is_number, lambda ratio: ours_with(ratio).device <= budget))
    footprints = (ours, *footprint.others(_slices(sizes, model_parallel)))
    for each in footprints:
        if writeback == "in_place":
            each.move_to_host()
        each.compare(devices, activations, device_memory, host_memory)
        each.time(devices, link_gb_s, host_gb_s)
    return footprints


def _check_effect(ours: Footprint, exact: Footprint, moment_dtype: str, shard_states: bool) -> None:
    """Refuses arguments about states on the host if none are there, or none that are large enough."""
    if moment_dtype != "float32" and not ours.host_states:
        must = "be 'float32' if offload_ratio or min_offload_size keeps all states on the device"
        _refuse("moment_dtype", must, moment_dtype, "leave it out")
    if moment_dtype != "float32" and ours.host_states == exact.host_states:
        must = f"be 'float32' or 'bfloat16' if no parameter has {LEAST_CODED:,} elements and two dimensions"
        _refuse("moment_dtype", must, moment_dtype, "smaller ones keep float32 moments")
    if shard_states and not ours.interconnect:
        must = "be False if no offloaded parameter is large enough to be cut"
        _refuse("shard_states", must, shard_states, "leave it out")


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
    divided = [(whole._replace(size=whole.size - offloaded), True), (whole._replace(size=offloaded), False)]
    divided = [(size, stays) for size, stays in divided if size.size]
    return [size for size, _ in divided], [stays for _, stays in divided]


def _smallest_ratio(sizes: list[Size], is_number: bool, fits: Callable[[float], bool]) -> float:
    """Returns the smallest ratio for which `fits` is True; 1.0 if there is none.

    Less fits on the device the lower the ratio is. So the search halves the range: of numbers of elements, or of
    numbers of whole parameters.
    """
    total = sum(size.size for size in sizes)
    kept = range(total + 1) if is_number else [0, *itertools.accumulate(sorted(size.size for size in sizes))]
    low, high = 0, len(kept) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(1 - kept[middle] / total) else (low, middle - 1)
    return 1 - kept[low] / total


def _sizes(parameters: Union[float, Iterable[Any]], dtype: Optional[str]) -> list[Size]:
    """Returns the parameters as Sizes, of `dtype` if it is given."""
    dtypes = f"be one of {list(ELEMENT_TYPES)}"
    if dtype is not None and dtype not in ELEMENT_TYPES:
        refuse(TypeError, "estimate", "argument 'dtype'", dtypes, repr(dtype))
    if isinstance(parameters, (int, float)):
        if not 1 <= parameters <= MOST or parameters != int(parameters):
            _refuse("parameters", f"be a whole number from 1 to {MOST:g}", parameters)
        return [Size("all", int(parameters), dtype or "float32")]
    if isinstance(parameters, str) or not isinstance(parameters, Iterable):
        cure = "for a net, give net.trainable_params()"
        refuse(TypeError, "estimate", "argument 'parameters'", "be a number or parameters", typed(parameters), cure)
    sizes = [Size.of(parameter) for parameter in parameters]
    for size in sizes:
        if dtype is None and size.dtype not in ELEMENT_TYPES:
            refuse(TypeError, "estimate", f"dtype of the parameter '{size.name}'", dtypes, size.dtype, "give dtype")
    return [size._replace(dtype=dtype or size.dtype) for size in sizes]
