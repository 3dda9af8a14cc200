# SPDX-License-Identifier: Apache-2.0

"""``estimate``: how many bytes training with Adam needs, where, and how long an update takes at least."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Callable, Optional, Union

from mindspore_offload.formats import ELEMENT_TYPES, LEAST_CODED, MOMENT_FORMATS, format_for, one_of
from mindspore_offload.planning import footprint, placement
from mindspore_offload.planning.footprint import Footprint, Size

MOMENT_DTYPES = tuple(MOMENT_FORMATS)
MOST = 10**18  # parameters, devices: more are a mistake, and their bytes may be more than a float holds
SLOWEST = 1e-9  # in 1e9 bytes per second: the time at a lower speed may be more than a float holds


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
    sizes = _sizes(parameters, dtype)
    if writeback not in ("assign", "in_place"):
        raise ValueError(
            f"For 'estimate', the argument 'writeback' must be 'assign' or 'in_place', but got {writeback!r}."
        )
    positive = {"max_grad_norm": max_grad_norm, "devices": devices, "link_gb_s": link_gb_s, "host_gb_s": host_gb_s}
    positive.update(device_memory=device_memory, host_memory=host_memory)
    for name, value in positive.items():
        above = SLOWEST if name.endswith("gb_s") else 0
        if value is not None and not above < value <= MOST:
            raise ValueError(
                f"For 'estimate', the argument '{name}' must be greater than {above:g} and at most {MOST:g}, but got "
                f"{value!r:.60}."
            )
    if min_offload_size < 0:
        raise ValueError(
            f"For 'estimate', the argument 'min_offload_size' must be at least 0, but got {min_offload_size!r}."
        )
    if min_offload_size and isinstance(parameters, (int, float)):
        raise ValueError(
            f"For 'estimate', the argument 'min_offload_size' must be 0 for a number of parameters, but got "
            f"{min_offload_size!r}; give the parameters themselves, which have sizes."
        )
    if offload_ratio is not None and not 0 <= offload_ratio <= 1:
        raise ValueError(
            f"For 'estimate', the argument 'offload_ratio' must be None or from 0.0 to 1.0, but got "
            f"{offload_ratio!r:.60}."
        )
    if device_memory is not None and writeback == "in_place":
        raise ValueError(
            f"For 'estimate', the argument 'device_memory' must be None if writeback is 'in_place', but got "
            f"{device_memory!r}: everything is in host memory; give host_memory."
        )
    if not 0 <= activations <= MOST:
        raise ValueError(
            f"For 'estimate', the argument 'activations' must be from 0 to {MOST:g}, but got {activations!r:.60}."
        )
    if activations and device_memory is None:
        raise ValueError(
            f"For 'estimate', the argument 'activations' must be 0 without device_memory, but got {activations!r:.60}; "
            f"give both."
        )
    if moment_dtype not in MOMENT_DTYPES:
        raise ValueError(
            f"For 'estimate', the argument 'moment_dtype' must be {one_of(map(repr, MOMENT_DTYPES))}, but got "
            f"{moment_dtype!r}."
        )
    if shard_states and not (devices >= 2 and devices == int(devices)):
        raise ValueError(
            f"For 'estimate', the argument 'devices' must be a whole number of at least 2 if shard_states is True, but "
            f"got {devices!r}; give the number of devices that share the states."
        )
    gradients_wait, ranks = max_grad_norm is not None or skip_nonfinite, int(devices) if shard_states else 1
    is_number = isinstance(parameters, (int, float))

    def placed_with(ratio: float) -> tuple[list[Size], list[bool]]:
        return _placed(sizes, is_number, min_offload_size, ratio)

    def ours_with(ratio: float) -> Footprint:
        placed, is_on_device = placed_with(ratio)
        return footprint.offloaded("AdamOffload", placed, moment_dtype, is_on_device, gradients_wait, ranks)

    ratio = 1.0 if offload_ratio is None else offload_ratio
    ours = ours_with(ratio)
    _check_effect(ours, *placed_with(ratio), moment_dtype, shard_states)
    if offload_ratio is None and device_memory is not None:
        budget = device_memory - activations
        ours = ours_with(_smallest_ratio(sizes, is_number, lambda ratio: ours_with(ratio).device <= budget))
    if all(size.dtype == "float32" for size in sizes):
        stock = footprint.offloaded("nn.AdamOffload", sizes)
    else:
        stock = Footprint("nn.AdamOffload", refused="trains float32 parameters only")
    footprints = (
        ours,
        stock,
        footprint.on_device("nn.Adam", sizes),
        footprint.on_device("Adam, float32 states", sizes, has_masters=True),
    )
    for each in footprints:
        if writeback == "in_place":
            footprint.move_to_host(each)
        footprint.compare(each, devices, activations, device_memory, host_memory)
        each.seconds = footprint.seconds(each, devices, link_gb_s, host_gb_s)
    return footprints


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


def _check_effect(
    ours: Footprint, sizes: list[Size], is_on_device: list[bool], moment_dtype: str, shard_states: bool
) -> None:
    """Refuses arguments about states on the host if none are there or, to be shared, if none are large enough."""
    if moment_dtype != "float32" and not ours.host_states:
        raise ValueError(
            f"For 'estimate', the argument 'moment_dtype' must be 'float32' if no parameter is offloaded, but got "
            f"{moment_dtype!r}, and offload_ratio or min_offload_size keeps all states on the device; leave it out."
        )
    offloaded = [size for size, stays in zip(sizes, is_on_device) if not stays]
    if offloaded and all(format_for(moment_dtype, size.size, size.ndim).name != moment_dtype for size in offloaded):
        raise ValueError(
            f"For 'estimate', the argument 'moment_dtype' must be 'float32' or 'bfloat16' if no parameter has "
            f"{LEAST_CODED:,} elements and two dimensions, but got {moment_dtype!r}; smaller ones keep "
            f"float32 moments."
        )
    if shard_states and not ours.interconnect:
        raise ValueError(
            f"For 'estimate', the argument 'shard_states' must be False if all parameters stay whole, but got "
            f"{shard_states!r}, and no offloaded parameter is large enough to be cut; leave it out."
        )


def _sizes(parameters: Union[float, Iterable[Any]], dtype: Optional[str]) -> list[Size]:
    """Returns the parameters as Sizes, of `dtype` if it is given."""
    if dtype is not None and dtype not in ELEMENT_TYPES:
        raise TypeError(
            f"For 'estimate', the argument 'dtype' must be None or one of {list(ELEMENT_TYPES)}, but got {dtype!r}."
        )
    if isinstance(parameters, (int, float)):
        if not 1 <= parameters <= MOST or parameters != int(parameters):
            raise ValueError(
                f"For 'estimate', the argument 'parameters' must be a whole number from 1 to {MOST:g}, "
                f"but got {parameters!r}."
            )
        parameters = [Size("all", int(parameters), dtype or "float32")]
    if isinstance(parameters, str) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"For 'estimate', the argument 'parameters' must be a number or parameters, but got {parameters!r:.60} of "
            f"type {type(parameters).__name__}; for a net, give net.trainable_params()."
        )
    sizes = [
        Size(getattr(p, "name", ""), p.size, dtype or str(p.dtype).lower(), getattr(p, "ndim", 2)) for p in parameters
    ]
    for size in sizes:
        if size.dtype not in ELEMENT_TYPES:
            raise TypeError(
                f"For 'estimate', the dtype of the parameter '{size.name}' must be one of {list(ELEMENT_TYPES)}, "
                f"but got {size.dtype}; give the argument 'dtype'."
            )
    return sizes
