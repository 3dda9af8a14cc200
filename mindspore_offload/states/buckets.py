# SPDX-License-Identifier: Apache-2.0

"""Buckets: the runs of parameters that one host operation updates."""

from dataclasses import dataclass

# The largest bucket, in bytes of parameters. The gradients of a bucket live until its operation has run, so this bounds
# how many of them wait. A larger bound would only save launches.
BUCKET_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Bucket:
    """Neighbouring parameters that one operation updates.

    Attributes:
        start (int): The index of the first one's gradient. The gradients of the others follow.
        slots (tuple[ParameterStates]): The parameters with their states.
    """

    start: int
    slots: tuple

    @property
    def stop(self):
        """The index behind the last one's gradient."""
        return self.start + len(self.slots)


def cut(slots, start=0, limit=None):
    """Cuts parameters into buckets, the last parameters first.

    A bucket has at most `limit` bytes of parameters, or is a single larger parameter. Backward passes yield the
    gradients of the last parameters first: in this order a gradient can be freed soon after it has been computed.

    Args:
        slots (Sequence[ParameterStates]): The parameters with their states.
        start (int): The index of the first one's gradient.
        limit (Optional[float]): The bound, in bytes. None: `BUCKET_BYTES`.
    """
    limit = BUCKET_BYTES if limit is None else limit
    runs, held = [], 0  # the bounds of each bucket, and the bytes in the last one
    for i in reversed(range(len(slots))):
        size = slots[i].parameter.nbytes
        if not runs or held + size > limit:
            runs.append([i, i + 1])
            held = 0
        runs[-1][0], held = i, held + size
    return [Bucket(start + first, tuple(slots[first:stop])) for first, stop in runs]
