"""How many bytes a training with Adam takes, and where: a calculation, in which nothing of that size is allocated."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Optional

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MOMENTS, MASTER = 8, 4  # bytes an element, float32


class Size(NamedTuple):
    """A parameter, as far as its bytes go."""

    name: str
    size: int
    dtype: str


@dataclass
class Footprint:
    """What one optimizer takes on each device, and for each device on the host, in bytes.

    Attributes:
        optimizer (str): Its name.
        refused (str): Why it can't train these parameters; empty if it can.
        device_weights, device_gradients, device_states (int): On the device. The gradients are counted as if all were
            there at once, which is the most that they can take.
        host_states (int): On the host: moments, and the float32 masters of 16-bit parameters.
        host_others (int): On the host too: gradients that wait for their norm; where the device is the CPU, weights
            and gradients.
        to_host, to_device (int): What crosses the link in a step.
        host_traffic (int): What a step reads and writes in host memory, what crosses the link included.
        seconds (float): Of the update, at the speeds that were given and with nothing at the same time. None where a
            speed is unknown, or where the device computes the update.
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
    def device(self):
        """All bytes on the device."""
        return self.device_weights + self.device_gradients + self.device_states

    @property
    def host(self):
        """All bytes on the host."""
        return self.host_states + self.host_others


def estimate(
    parameters,
    dtype=None,
    *,
    writeback="assign",
    max_grad_norm=None,
    skip_nonfinite=False,
    min_offload_size=0,
    devices=1,
    link_gb_s=None,
    host_gb_s=None,
):
    """The bytes and the time of an update by this package, by `mindspore.nn.AdamOffload` and by `mindspore.nn.Adam`.

    Activations, and what MindSpore itself needs, come on top. So do the gradients and results of one bucket on the
    host: at most 32 MiB of each, or the largest tensor.

    Args:
        parameters (Union[int, float, Iterable[Parameter]]): Their number, or the parameters themselves: anything that
            has `size` and `dtype`. A number counts as one large parameter.
        dtype (str): ``"float32"``, ``"float16"`` or ``"bfloat16"``: what the parameters are to be. Default: ``None`` ,
            as they are, and float32 for a number.

    Keyword Args:
        writeback (str): ``"assign"`` for an accelerator with memory of its own, ``"in_place"`` for the CPU as the
            device. Default: ``"assign"`` .
        max_grad_norm (float), skip_nonfinite (bool), min_offload_size (int): As of the optimizer. With one of the first
            two, all gradients wait on the host for their norm. Default: ``None`` , ``False`` , ``0`` .
        devices (int): How many devices share the host's memory and its speed, each with these parameters and an
            optimizer of its own. Default: ``1`` .
        link_gb_s (float): Speed of each device's link, in 1e9 bytes a second. Default: ``None`` , unknown.
        host_gb_s (float): Speed of host memory, in 1e9 bytes a second. Default: ``None`` , unknown.

    Returns:
        tuple[Footprint], in the order above.

    Raises:
        TypeError: If `parameters` is neither a number nor iterable, or a dtype is not one of the three.
        ValueError: If `writeback` is unknown, `min_offload_size` is less than 0, or another number is not greater
            than 0.

    Examples:
        >>> from mindspore_offload import estimate
        >>>
        >>> ours, offload, adam = estimate(7e9, "bfloat16")
        >>> ours.device_states, ours.host_states, adam.device_states
        (0, 84000000000, 28000000000)
    """
    sizes = _sizes(parameters, dtype)
    if writeback not in ("assign", "in_place"):
        raise ValueError(
            f"For 'estimate', the argument 'writeback' must be 'assign' or 'in_place', but got {writeback!r}."
        )
    positive = {"max_grad_norm": max_grad_norm, "devices": devices, "link_gb_s": link_gb_s, "host_gb_s": host_gb_s}
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"For 'estimate', the argument '{name}' must be greater than 0, but got {value!r}.")
    if min_offload_size < 0:
        raise ValueError(
            f"For 'estimate', the argument 'min_offload_size' must be at least 0, but got {min_offload_size!r}."
        )
    ours = _offloaded("AdamOffload", sizes, min_offload_size, max_grad_norm is not None or skip_nonfinite)
    if all(size.dtype == "float32" for size in sizes):
        stock = _offloaded("nn.AdamOffload", sizes)
    else:
        stock = Footprint("nn.AdamOffload", refused="it takes float32 parameters only")
    footprints = (ours, stock, _on_device("nn.Adam", sizes))
    for footprint in footprints:
        if writeback == "in_place":
            _move_to_host(footprint)
        footprint.seconds = _seconds(footprint, devices, link_gb_s, host_gb_s)
    return footprints


def _sizes(parameters, dtype):
    """The parameters as Sizes, of `dtype` if it is given."""
    if dtype is not None and dtype not in BYTES:
        raise TypeError(
            f"For 'estimate', the argument 'dtype' must be None or one of {list(BYTES)}, but got {dtype!r}."
        )
    if isinstance(parameters, (int, float)):
        if not parameters >= 1 or parameters != int(parameters):
            raise ValueError(f"For 'estimate', the argument 'parameters' must be at least 1, but got {parameters!r}.")
        parameters = [Size("all", int(parameters), dtype or "float32")]
    if isinstance(parameters, str) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"For 'estimate', the argument 'parameters' must be a number or parameters, but got {parameters!r:.60} of "
            f"type {type(parameters).__name__}; of a net, give net.trainable_params()."
        )
    sizes = [Size(getattr(p, "name", ""), p.size, dtype or str(p.dtype).lower()) for p in parameters]
    for size in sizes:
        if size.dtype not in BYTES:
            raise TypeError(
                f"For 'estimate', the dtype of the parameter '{size.name}' must be one of {list(BYTES)}, "
                f"but got {size.dtype}; give the argument 'dtype'."
            )
    return sizes


def _offloaded(name, sizes, min_offload_size=0, gradients_wait=False):
    """States on the host. The link has the gradient and the result, and of 16 bits the parameter, as it may change."""
    total = Footprint(name)
    for size in sizes:
        own = BYTES[size.dtype] * size.size
        states = (MOMENTS + (0 if size.dtype == "float32" else MASTER)) * size.size
        total.device_weights += own
        total.device_gradients += own
        if gradients_wait:
            total.host_others += own
            total.host_traffic += own
        if size.size < min_offload_size:
            total.device_states += states
            if gradients_wait:  # the norm is that of all gradients
                total.to_host += own
                total.host_traffic += own
            continue
        total.host_states += states
        to_host = own if size.dtype == "float32" else 2 * own
        total.to_host += to_host
        total.to_device += own
        # The kernel reads and writes the states, and what crosses the link is written once and read once.
        total.host_traffic += 2 * states + 2 * (to_host + own)
    return total


def _on_device(name, sizes):
    """Moments in the dtype of their parameter, beside it, and no masters."""
    own = sum(BYTES[size.dtype] * size.size for size in sizes)
    return Footprint(name, device_weights=own, device_gradients=own, device_states=2 * own)


def _move_to_host(footprint):
    """The device is the CPU: nothing crosses a link, and weights, gradients and all states are in host memory.

    A gradient that waits for the norm is read twice.
    """
    states = footprint.host_states + footprint.device_states
    weights, gradients, read_before = footprint.device_weights, footprint.device_gradients, footprint.host_others
    footprint.host_states, footprint.host_others = states, weights + gradients
    footprint.device_weights = footprint.device_gradients = footprint.device_states = 0
    footprint.to_host = footprint.to_device = 0
    footprint.host_traffic = 2 * states + 2 * weights + gradients + read_before


def _seconds(footprint, devices, link_gb_s, host_gb_s):
    crossing = footprint.to_host + footprint.to_device
    if not footprint.host_traffic or not host_gb_s or (crossing and not link_gb_s):
        return None
    link = crossing / link_gb_s if crossing else 0
    return (link + footprint.host_traffic * devices / host_gb_s) / 1e9
