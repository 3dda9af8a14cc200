# SPDX-License-Identifier: Apache-2.0

"""Reads how many cores and how much memory this process may use, its container's limits included."""

import contextlib
import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
CPUINFO = Path("/proc/cpuinfo")
NUMA_NODES = Path("/sys/devices/system/node")

# A limit that does not exist, is "max" or is written in an unknown way counts as no limit.
NO_LIMIT = (OSError, ValueError, IndexError, ZeroDivisionError)


def allowed_cores():
    """Returns the number of cores that this process may run on, or that its container gets the time of if fewer."""
    return math.ceil(min(len(os.sched_getaffinity(0)), container_cores()))


def container_cores():
    """Returns how many cores' time the container gets; infinite without a limit."""
    limits = [math.inf]
    for group in _groups():
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(*NO_LIMIT):
                quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                limits.append(quota / period if quota > 0 else math.inf)
    return min(limits)


def container_memory():
    """Returns the container's limit in bytes, and how many of them are free; infinite without a limit.

    File pages that have not been used for long count as free: the system reclaims them before it refuses memory.
    """
    sizes, free = [math.inf], [math.inf]
    for group in _groups():
        for limit, usage, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(*NO_LIMIT):
                size = int((group / limit).read_text())
                if size < 1 << 60:  # the old interface writes "no limit" as a number near the largest
                    used = int((group / usage).read_text()) - int(_entry(group / "memory.stat", reclaimable) or 0)
                    free.append(size - used)
                    sizes.append(size)
    return min(sizes), min(free)


def _groups():
    """Yields the folders of the control groups that limit this process: its own, and all above.

    Version 1 has a tree of groups for each controller or a few, version 2 one for all. In a container, the tree may
    begin at the container's group although the process sees the path from the root of the machine. Folders on that path
    that do not exist limit nothing.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)  # version 2 names no controllers
        for name in {*controllers.split(","), controllers or "unified"}:
            group = CGROUP / name / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(CGROUP / name))


def available_memory():
    """Returns how many bytes this process can still get without swapping."""
    _, free = container_memory()
    kilobytes, _ = _entry(MEMINFO, "MemAvailable").split()
    return min(1024 * int(kilobytes), free)


def numa_nodes():
    """Returns the cores of each NUMA node, by its number; empty if the system does not list them."""
    nodes = sorted(NUMA_NODES.glob("node[0-9]*"))
    return {int(node.name.removeprefix("node")): (node / "cpulist").read_text().strip() for node in nodes}


def cpu_name():
    """Returns the CPU's own name, or its architecture if it has none."""
    with contextlib.suppress(OSError):
        return _entry(CPUINFO, "model name") or platform.machine()
    return platform.machine()


def _entry(path, name):
    """Returns the value of the first line "name value" or "name: value" of a file; empty if there is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix(name).strip(" \t:") for line in lines if line.startswith(name)), "")
