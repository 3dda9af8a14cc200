# SPDX-License-Identifier: Apache-2.0

"""Calculates how many bytes training with Adam needs, and where. Nothing of that size is allocated."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Union

from mindspore_offload.dtypes import ELEMENT_TYPES

MOMENTS, MASTER = 8, 4  # bytes per element, float32
MOST = 10**18  # parameters, devices: more are a mistake, and their bytes may be more than a float holds


class Size(NamedTuple):
    """Name, number of elements and dtype of a parameter."""

    name: str
    size: int
    dtype: str


@dataclass
class Footprint:
    """Bytes that one optimizer needs on each device, and on the host for each device.

    Attributes:
        optimizer (str): Name of the optimizer.
        refused (str): The reason why it can't train these parameters; empty if it can.
        device_weights, device_gradients, device_states (int): Bytes on the device. The gradients are counted as if all
            existed at once, which is the maximum.
        host_states (int): Bytes of the states on the host: moments, and float32 masters of 16-bit parameters.
        host_others (int): Other bytes on the host: gradients that wait for their norm; weights and gradients if the
            device is the CPU.
        to_host, to_device (int): Bytes that cross the link in a step.
        host_traffic (int): Bytes that a step reads and writes in host memory, transfers included.
        seconds (float): Time of the update at the given speeds, without overlap. None if a speed is unknown or if the
            device computes the update.
    """

    optimizer: str
    refused: str = ""
    device_weights: int = 0
    device_gradients: int = 0
    device_states: int = 0
    host_states: int = 0
    host_others: int = 0
    to_host: int = 0
    to_device: int = 0
    host_traffic: int = 0
    seconds: Optional[float] = None

    @property
    def device(self) -> int:
        """All bytes on the device."""
        return self.device_weights + self.device_gradients + self.device_states

    @property
    def host(self) -> int:
        """All bytes on the host."""
        return self.host_states + self.host_others


def estimate(
    parameters: Union[float, Iterable[Any]],
    dtype: Optional[str] = None,
    *,
    writeback: str = "assign",
    max_grad_norm: Optional[float] = None,
    skip_nonfinite: bool = False,
    min_offload_size: int = 0,
    devices: int = 1,
    link_gb_s: Optional[float] = None,
    host_gb_s: Optional[float] = None,
) -> tuple[Footprint, ...]:
    """Estimates the bytes and the time of an update for this package and for Adam elsewhere.

    The others are `mindspore.nn.AdamOffload`, `mindspore.nn.Adam`, and an Adam on the device that keeps float32 moments
    and float32 masters there. MindSpore has no such Adam: it is listed for comparison.

    Activations and MindSpore's own memory come on top. So do the gradients and results of one bucket on the host: at
    most 32 MiB of each, or the largest tensor.

    Args:
        parameters (Union[int, float, Iterable[Parameter]]): The number of parameters, or the parameters themselves:
            any objects with `size` and `dtype`. A number counts as one large parameter.
        dtype (str): The dtype that the parameters are trained in: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
            Default: ``None`` , the dtype that they have, and float32 for a number.

    Keyword Args:
        writeback (str): ``"assign"`` for an accelerator with its own memory, ``"in_place"`` if the device is the CPU.
            Default: ``"assign"`` .
        max_grad_norm (float), skip_nonfinite (bool), min_offload_size (int): Arguments of the optimizer. With one of
            the first two, all gradients wait on the host for their norm. A `min_offload_size` needs the parameters
            themselves. Default: ``None`` , ``False`` , ``0`` .
        devices (int): Number of devices that share the host's memory and its speed. Each has these parameters and its
            own optimizer. Default: ``1`` .
        link_gb_s (float): Speed of each device's link, in 1e9 bytes per second. Default: ``None`` , unknown.
        host_gb_s (float): Speed of host memory, in 1e9 bytes per second. Default: ``None`` , unknown.

    Returns:
        tuple[Footprint], in the order above.

    Raises:
        TypeError: If `parameters` is neither a number nor iterable, or a dtype is not one of the three.
        ValueError: If `writeback` is unknown, if a number is out of its range, or if `min_offload_size` is given with a
            number of parameters.

    Examples:
        >>> from mindspore_offload import estimate
        >>>
        >>> ours, offload, adam, adam_float32 = estimate(7e9, "bfloat16")
        >>> ours.device_states, ours.host_states, adam.device_states, adam_float32.device_states
        (0, 84000000000, 28000000000, 84000000000)
    """
    sizes = _sizes(parameters, dtype)
    if writeback not in ("assign", "in_place"):
        raise ValueError(
            f"For 'estimate', the argument 'writeback' must be 'assign' or 'in_place', but got {writeback!r}."
        )
    positive = {"max_grad_norm": max_grad_norm, "devices": devices, "link_gb_s": link_gb_s, "host_gb_s": host_gb_s}
    for name, value in positive.items():
        if value is not None and not 0 < value <= MOST:
            raise ValueError(
                f"For 'estimate', the argument '{name}' must be greater than 0 and at most {MOST:g}, but got "
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
    ours = _offloaded("AdamOffload", sizes, min_offload_size, max_grad_norm is not None or skip_nonfinite)
    if all(size.dtype == "float32" for size in sizes):
        stock = _offloaded("nn.AdamOffload", sizes)
    else:
        stock = Footprint("nn.AdamOffload", refused="trains float32 parameters only")
    footprints = (
        ours,
        stock,
        _on_device("nn.Adam", sizes),
        _on_device("Adam, float32 states", sizes, has_masters=True),
    )
    for footprint in footprints:
        if writeback == "in_place":
            _move_to_host(footprint)
        footprint.seconds = _seconds(footprint, devices, link_gb_s, host_gb_s)
    return footprints


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
    sizes = [Size(getattr(p, "name", ""), p.size, dtype or str(p.dtype).lower()) for p in parameters]
    for size in sizes:
        if size.dtype not in ELEMENT_TYPES:
            raise TypeError(
                f"For 'estimate', the dtype of the parameter '{size.name}' must be one of {list(ELEMENT_TYPES)}, "
                f"but got {size.dtype}; give the argument 'dtype'."
            )
    return sizes


def _offloaded(name: str, sizes: list[Size], min_offload_size: int = 0, gradients_wait: bool = False) -> Footprint:
    """Returns the footprint of states on the host.

    The gradient and the result cross the link. A 16-bit parameter crosses it too: it may have been changed outside the
    optimizer, and its master must follow.
    """
    total = Footprint(name)
    for size in sizes:
        own = ELEMENT_TYPES[size.dtype].size * size.size
        states = _state_bytes(size)
        total.device_weights += own
        total.device_gradients += own
        if gradients_wait:
            total.host_others += own
            total.host_traffic += own
        if size.size < min_offload_size:
            total.device_states += states
            if gradients_wait:  # the norm is the one of all gradients
                total.to_host += own
                total.host_traffic += own
            continue
        total.host_states += states
        to_host = own if size.dtype == "float32" else 2 * own
        total.to_host += to_host
        total.to_device += own
        # The kernel reads and writes the states. What crosses the link is written once and read once.
        total.host_traffic += 2 * states + 2 * (to_host + own)
    return total


def _on_device(name: str, sizes: list[Size], has_masters: bool = False) -> Footprint:
    """Returns the footprint of states on the device: moments in the dtype of the parameter, or float32 with masters."""
    own = sum(ELEMENT_TYPES[size.dtype].size * size.size for size in sizes)
    states = sum(_state_bytes(size) for size in sizes) if has_masters else 2 * own
    return Footprint(name, device_weights=own, device_gradients=own, device_states=states)


def _state_bytes(size: Size) -> int:
    """Returns the bytes of float32 moments, and of the float32 master of a 16-bit parameter."""
    return (MOMENTS + (0 if size.dtype == "float32" else MASTER)) * size.size


def _move_to_host(footprint: Footprint) -> None:
    """Adapts a footprint to the CPU as the device: all of it is in host memory, and nothing crosses a link.

    A gradient that waits for the norm is read twice.
    """
    states = footprint.host_states + footprint.device_states
    weights, gradients, read_before = footprint.device_weights, footprint.device_gradients, footprint.host_others
    footprint.host_states, footprint.host_others = states, weights + gradients
    footprint.device_weights = footprint.device_gradients = footprint.device_states = 0
    footprint.to_host = footprint.to_device = 0
    footprint.host_traffic = 2 * states + 2 * weights + gradients + read_before


def _seconds(
    footprint: Footprint, devices: int, link_gb_s: Optional[float], host_gb_s: Optional[float]
) -> Optional[float]:
    crossing = footprint.to_host + footprint.to_device
    if not footprint.host_traffic or not host_gb_s or (crossing and not link_gb_s):
        return None
    link = crossing / link_gb_s if link_gb_s else 0
    return (link + footprint.host_traffic * devices / host_gb_s) / 1e9
