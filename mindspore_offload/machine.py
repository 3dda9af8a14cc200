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
NUMA_NODES = Path("/sys/devices/system/node")

# A limit that does not exist, is "max" or is written in an unknown way counts as no limit.
NO_LIMIT = (OSError, ValueError, IndexError, ZeroDivisionError)


def allowed_cores():
    """Returns the number of cores that this process may run on, or that its container gets the time of if fewer."""
    return math.ceil(min(len(os.sched_getaffinity(0)), container_cores()))


def container_cores():
    """Returns how many cores' time the container gets; infinite without a limit."""
    limits = [math.inf]
    for group in _groups("cpu"):
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
    for group in _groups("memory"):
        for limit, usage, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(*NO_LIMIT):
                size = int((group / limit).read_text())
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                if size < 1 << 60:  # the old interface writes "no limit" as a number near the largest
                    free.append(size - int((group / usage).read_text()) + int(statistics.get(reclaimable, 0)))
                    sizes.append(size)
    return min(sizes), min(free)


def _groups(controller):
    """Yields the folders of the control groups that limit this process: its own, and all above.

    Version 1 has a tree of groups for each controller, version 2 one for all. In a container, the tree may begin at the
    container's group although the process sees the path from the root of the machine. Folders on that path that do not
    exist limit nothing.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            trees = (CGROUP, CGROUP / "unified")
        elif controller in controllers.split(","):
            trees = (CGROUP / controller, CGROUP / controllers)
        else:
            trees = ()
        for tree in trees:
            group = tree / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(tree))


def available_memory():
    """Returns how many bytes this process can still get without swapping."""
    _, free = container_memory()
    lines = MEMINFO.read_text(encoding="utf-8").splitlines()
    free_of_system = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    return min(free_of_system, free)


def numa_nodes():
    """Returns the cores of each NUMA node, by its number; empty if the system does not list them."""
    return {
        int(node.name.removeprefix("node")): (node / "cpulist").read_text().strip()
        for node in sorted(NUMA_NODES.glob("node[0-9]*"))
    }


def cpu_name():
    """Returns the CPU's own name, or its architecture if it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
