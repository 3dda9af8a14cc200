# SPDX-License-Identifier: Apache-2.0

"""The cores and the memory of a process, read from files as the system writes them."""

import math

import pytest

from mindspore_offload import machine

GB = 10**9


@pytest.mark.parametrize(
    ("files", "size", "free"),
    [
        (
            {"memory.max": f"{8 * GB}", "memory.current": f"{5 * GB}", "memory.stat": f"anon 1\ninactive_file {GB}"},
            8 * GB,
            4 * GB,
        ),
        ({"memory.max": "max", "memory.current": f"{GB}", "memory.stat": "anon 1"}, math.inf, math.inf),
        (
            {
                "memory/memory.limit_in_bytes": f"{8 * GB}",
                "memory/memory.usage_in_bytes": f"{5 * GB}",
                "memory/memory.stat": f"inactive_file 3\ntotal_inactive_file {2 * GB}",
            },
            8 * GB,
            5 * GB,
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": f"{GB}",
                "memory/memory.stat": "cache 0",
            },
            math.inf,
            math.inf,
        ),
        ({"memory.max": "", "memory.current": "", "memory.stat": ""}, math.inf, math.inf),
        ({}, math.inf, math.inf),
    ],
    ids=["limit", "unlimited", "version-1", "version-1-unlimited", "empty-files", "no-cgroup"],
)
def test_the_memory_of_a_container(files, size, free, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.container_memory() == (size, free)
    assert 0 < machine.available_memory() <= free


def test_the_nodes_of_a_machine(tmp_path, monkeypatch):
    for number, cores in enumerate(["0-3,8-11", "4-7,12-15"]):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(f"{cores}\n")
    (tmp_path / "has_cpu").write_text("0-1")
    monkeypatch.setattr(machine, "NUMA_NODES", tmp_path)
    assert machine.numa_nodes() == {0: "0-3,8-11", 1: "4-7,12-15"}
