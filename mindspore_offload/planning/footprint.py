# SPDX-License-Identifier: Apache-2.0

"""Counts the bytes of training with Adam, and where they are. Nothing of that size is allocated."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Optional

from mindspore_offload import placement
from mindspore_offload.distributed.pieces import piece_size
from mindspore_offload.formats import ELEMENT_TYPES, EXACT, format_for

MASTER_SIZE = ELEMENT_TYPES["float32"].size


class Size(NamedTuple):
    """Name, number of elements, dtype and number of dimensions of a parameter."""

    name: str
    size: int
    dtype: str
    ndim: int = 2

    @classmethod
    def of(cls, parameter: Any) -> "Size":
        """Returns the `Size` of a parameter, or of any object with `size` and `dtype`."""
        name, ndim = getattr(parameter, "name", ""), getattr(parameter, "ndim", 2)
        return cls(name, parameter.size, str(parameter.dtype).lower(), ndim)


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
        interconnect (int): Bytes of results that a device receives from the others in a step, if they share the states.
            The gradients, which data parallelism reduces in any case, are not counted.
        host_traffic (int): Bytes that a step reads and writes in host memory, transfers included.
        offload_ratio (float): The share of the parameters whose states are on the host.
        fits_device (bool): True if it fits into the memory of a device. None if that was not given.
        fits_host (bool): True if it fits into the memory of the host, for all devices. None if that was not given.
        seconds (float): Time of the update at the given speeds, without overlap and without the interconnect. None if a
            speed is unknown or if the device computes the update.
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
    interconnect: int = 0
    host_traffic: int = 0
    offload_ratio: float = 0.0
    fits_device: Optional[bool] = None
    fits_host: Optional[bool] = None
    seconds: Optional[float] = None

    @property
    def device(self) -> int:
        """All bytes on the device."""
        return self.device_weights + self.device_gradients + self.device_states

    @property
    def host(self) -> int:
        """All bytes on the host."""
        return self.host_states + self.host_others

    def move_to_host(self) -> None:
        """Adapts it to the CPU as the device: all of it is in host memory, and nothing crosses a link.

        A gradient that waits for the norm is read twice. A result of another rank costs as much as an own one: it is
        received, read and written to the parameter; an own update reads gradient and weight and writes the weight.
        """
        states, read_before = self.host_states + self.device_states, self.host_others
        self.host_states, self.host_others = states, self.device_weights + self.device_gradients
        self.host_traffic = 2 * states + self.device_weights + self.host_others + read_before
        self.device_weights = self.device_gradients = self.device_states = self.to_host = self.to_device = 0


def count(
    name: str,
    sizes: list[Size],
    is_on_device: list[bool],
    moment_dtype: str = "float32",
    gradients_wait: bool = False,
    ranks: int = 1,
) -> Footprint:
    """Returns the footprint of an Adam whose states are on the host, except those that stay on the device.

    With several `ranks`, each has a piece of the states on the host.

    The gradient and the result cross the link. A 16-bit parameter crosses it too: it may have been changed outside the
    optimizer, and its master must follow. With `gradients_wait`, all gradients are on the host, for their norm.
    """
    elements = [size.size for size in sizes]
    total = Footprint(name, offload_ratio=placement.offloaded_share(elements, is_on_device))
    for size, stays in zip(sizes, is_on_device):
        own, is_half = ELEMENT_TYPES[size.dtype].size, size.dtype != "float32"
        total.device_weights += own * size.size
        total.device_gradients += own * size.size
        piece = 0 if stays else piece_size(size.size, ranks)
        updated = piece or size.size
        moments = EXACT if stays else format_for(moment_dtype, size.size, size.ndim)
        states = moments.bytes(updated) + (MASTER_SIZE * updated if is_half else 0)
        result = own * updated
        waiting = result if gradients_wait else 0
        total.host_others += waiting
        if stays:
            total.device_states += states
            total.to_host += waiting
            continue
        total.host_states += states
        total.to_host += 2 * result if is_half else result
        total.to_device += result
        total.interconnect += (ranks - 1) * own * piece
        total.host_traffic += waiting  # read once more, for the norm
    # The kernel reads and writes the states. What crosses the link is written once and read once.
    total.host_traffic += 2 * (total.host_states + total.to_host + total.to_device)
    return total


def others(sizes: list[Size]) -> tuple[Footprint, ...]:
    """Returns the footprints of Adam elsewhere, for comparison."""
    exact = count("Adam, float32 states", sizes, [True] * len(sizes))
    adam = replace(exact, optimizer="nn.Adam", device_states=2 * exact.device_weights)
    if all(size.dtype == "float32" for size in sizes):
        offload = count("nn.AdamOffload", sizes, [False] * len(sizes))
    else:
        offload = Footprint("nn.AdamOffload", refused="trains float32 parameters only")
    return offload, adam, exact
