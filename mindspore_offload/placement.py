# SPDX-License-Identifier: Apache-2.0

"""Chooses the parameters whose states stay on the device, for `offload_ratio` and `min_offload_size`.

MindSpore is not imported here: the commands need the choice without it.
"""

import itertools


def kept_on_device(sizes, min_offload_size, offload_ratio):
    """Returns, for each parameter, whether its states stay on the device.

    The smallest parameters stay there first: a transfer costs most per byte where it is short. Of equal ones, the first
    stay. As many stay as bring the share of offloaded elements closest to `offload_ratio`; if two numbers are equally
    close, the lower one. Those below `min_offload_size` stay in any case.

    Args:
        sizes (Sequence[int]): The elements of each parameter.
        min_offload_size (int): The bound, in elements.
        offload_ratio (float): The share, from 0.0 to 1.0.
    """
    smallest_first = sorted(range(len(sizes)), key=sizes.__getitem__)
    part, whole = float(offload_ratio).as_integer_ratio()  # whole numbers are exact, and faster than fractions
    wanted = (whole - part) * sum(sizes)
    held = itertools.accumulate((sizes[i] for i in smallest_first), initial=0)
    count = min(enumerate(held), key=lambda item: abs(whole * item[1] - wanted))[0]
    kept = set(smallest_first[:count])
    return [i in kept or size < min_offload_size for i, size in enumerate(sizes)]


def offloaded_share(sizes, is_on_device):
    """Returns the share of the elements whose states are on the host."""
    return sum(size for size, on_device in zip(sizes, is_on_device) if not on_device) / sum(sizes)
