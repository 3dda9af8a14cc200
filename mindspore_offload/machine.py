"""What this process may use of its machine: cores, memory, and the limits of its container."""

import contextlib
import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")

NUMA_NODES = Path("/sys/devices/system/node")


def allowed_cores():
    """The cores that this process may run on, or those that its container may use the time of."""
    return math.ceil(min(len(os.sched_getaffinity(0)), container_cores()))


def container_cores():
    """How many cores' time the container may use; infinite without a limit."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            words = (CGROUP / quota).read_text().split()
            words += (CGROUP / period).read_text().split() if period else []
            if int(words[0]) > 0:
                return int(words[0]) / int(words[1])
    return math.inf


def container_memory():
    """Bytes that the container may hold, and those of them that are free; infinite without a limit.

    Pages of files that nobody has used for long count as free, because the system takes them back before it refuses.
    """
    for limit, usage, stat, reclaimable in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            size = int((CGROUP / limit).read_text())
            statistics = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            if size < 1 << 60:  # the old interface writes "no limit" as a number near the largest
                return size, size - int((CGROUP / usage).read_text()) + int(statistics.get(reclaimable, 0))
    return math.inf, math.inf


def available_memory():
    """Bytes that this process can still get without swapping."""
    _, free = container_memory()
    with open("/proc/meminfo", encoding="utf-8") as file:
        free_of_system = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    return min(free_of_system, free)


def numa_nodes():
    """The cores of each NUMA node, by its number; empty where the system does not say."""
    return {
        int(node.name.removeprefix("node")): (node / "cpulist").read_text().strip()
        for node in sorted(NUMA_NODES.glob("node[0-9]*"))
    }


def cpu_name():
    """The name of the CPU as it gives it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
