# SPDX-License-Identifier: Apache-2.0

"""Describes the machine and the environment variables that matter."""

import os
import platform

from mindspore_offload import machine
from mindspore_offload.diagnosis.finding import NOTE, OK


def _cpu():
    return OK, f"{machine.cpu_name()}, {platform.machine()}, {os.cpu_count()} cores"


def _cores():
    limit = machine.container_cores()
    container = "no limit of its time" if limit == float("inf") else f"time of {limit:g} cores"
    return OK, f"{len(os.sched_getaffinity(0))} by affinity; container: {container}"


def _memory():
    size, _ = machine.container_memory()
    container = "no limit" if size == float("inf") else f"{size / 1e9:.1f} GB"
    return OK, f"{machine.available_memory() / 1e9:.1f} GB are available; container: {container}"


def _numa():
    nodes = machine.numa_nodes()
    if len(nodes) <= 1:
        return OK, "one node"
    text = ", ".join(f"node {number} has cores {listed}" for number, listed in nodes.items())
    return NOTE, f"{text}; a state is on the node of the thread that first wrote it"


def _white_list():
    name = "MS_CUSTOM_AOT_WHITE_LIST"
    return (NOTE, f"{name} is {os.environ[name]!r}") if name in os.environ else (OK, f"{name} is not set")


def _compile_cache():
    name = "MS_COMPILER_CACHE_ENABLE"
    if os.environ.get(name) != "1":
        return OK, f"{name} is not 1"
    return NOTE, f"{name} is 1: delete the cache after an upgrade, which MindSpore does not notice"


def _openmp():
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("OMP_")]
    return (NOTE, ", ".join(found)) if found else (OK, "no OMP_ variable is set")


# The state and the text of a finding, by its subject.
CHECKS = {
    "CPU": _cpu,
    "cores": _cores,
    "memory": _memory,
    "NUMA": _numa,
    "white list": _white_list,
    "compile cache": _compile_cache,
    "OpenMP": _openmp,
}
