# SPDX-License-Identifier: Apache-2.0

"""The cores and the memory of a process, read from files as the system writes them."""

import math

import pytest

from mindspore_offload import machine

GB = 10**9


def version2(folder, limit, used, reclaimable):
    """The files of a group's memory."""
    numbers = {"max": limit, "current": used, "stat": f"anon 1\ninactive_file {reclaimable}"}
    return {f"{folder}memory.{name}": f"{number}" for name, number in numbers.items()}


def version1(folder, limit, used, reclaimable):
    numbers = {
        "limit_in_bytes": limit,
        "usage_in_bytes": used,
        "stat": f"inactive_file 3\ntotal_inactive_file {reclaimable}",
    }
    return {f"memory/{folder}memory.{name}": f"{number}" for name, number in numbers.items()}


NO_NUMBER = 9223372036854771712  # as version 1 writes no limit
SYSTEMD = "/user.slice/user-1000.slice/job.scope"
POD = "/kubepods/burstable/pod1/container1"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Lets the process be in the groups of /proc/self/cgroup, and gives these the files of /sys/fs/cgroup."""

    def write(own_groups, files):
        for name, text in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own_groups").write_text(own_groups)
        monkeypatch.setattr(machine, "CGROUP", tmp_path / "tree")
        monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own_groups")

    return write


# The line of /proc/self/cgroup, the files, the limit and the free memory in GB.
MEMORY = {
    "limit": ("0::/", version2("", 8 * GB, 5 * GB, GB), 8, 4),
    "unlimited": ("0::/", version2("", "max", GB, 0), math.inf, math.inf),
    "version-1": ("4:memory:/", version1("", 8 * GB, 5 * GB, 2 * GB), 8, 5),
    "version-1-unlimited": ("4:memory:/", version1("", NO_NUMBER, GB, 0), math.inf, math.inf),
    "empty-files": ("0::/", version2("", "", "", ""), math.inf, math.inf),
    "no-files": ("0::/", {}, math.inf, math.inf),
    "no-groups": ("", {}, math.inf, math.inf),
    "own-group": (f"0::{SYSTEMD}", version2(f"{SYSTEMD[1:]}/", 8 * GB, 5 * GB, GB), 8, 4),
    "group-above": (
        f"0::{SYSTEMD}",
        version2("user.slice/", 8 * GB, 5 * GB, GB) | version2(f"{SYSTEMD[1:]}/", "max", GB, 0),
        8,
        4,
    ),
    "least-limit-and-least-free": (
        f"0::{SYSTEMD}",
        version2("user.slice/", 8 * GB, 7 * GB, 0) | version2(f"{SYSTEMD[1:]}/", 6 * GB, GB, 0),
        6,
        1,
    ),
    "group-beside": (f"0::{SYSTEMD}", version2("user.slice/other/", GB, 0, 0), math.inf, math.inf),
    "pod": (f"4:memory:{POD}", version1("kubepods/burstable/pod1/", 8 * GB, 5 * GB, 2 * GB), 8, 5),
    "tree-of-the-container": (f"4:memory:{POD}", version1("", 8 * GB, 5 * GB, 2 * GB), 8, 5),
    "tree-of-another-controller": (f"4:cpuset:{POD}", version1("", 8 * GB, 5 * GB, 2 * GB), math.inf, math.inf),
    "both-versions": ("4:memory:/a\n0::/b", version1("a/", 8 * GB, 5 * GB, 2 * GB), 8, 5),
    "version-2-beside-version-1": ("4:memory:/\n0::/b", version2("unified/b/", 8 * GB, 5 * GB, GB), 8, 4),
    "outside-of-the-namespace": ("0::/../b", version2("", 8 * GB, 5 * GB, GB), 8, 4),
    "colon-in-the-name": ("0::/a:b", version2("a:b/", 8 * GB, 5 * GB, GB), 8, 4),
}


@pytest.mark.parametrize("case", MEMORY)
def test_the_memory_of_a_container(case, groups):
    own_groups, files, size, free = MEMORY[case]
    groups(own_groups, files)
    assert machine.container_memory() == (size * GB, free * GB)
    assert 0 < machine.available_memory() <= free * GB


CORES = {
    "one-and-a-half": ("0::/", {"cpu.max": "150000 100000"}, 1.5),
    "unlimited": ("0::/", {"cpu.max": "max 100000"}, math.inf),
    "version-1": ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    "version-1-unlimited": ("2:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    "version-1-two-controllers": (
        f"2:cpu,cpuacct:{POD}",
        {"cpu,cpuacct/kubepods/cpu.cfs_quota_us": "300000", "cpu,cpuacct/kubepods/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version-1-other-order": (
        "2:cpuacct,cpu:/",
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        3,
    ),
    "empty-file": ("0::/", {"cpu.max": ""}, math.inf),
    "no-time": ("0::/", {"cpu.max": "100000 0"}, math.inf),
    "no-period": ("0::/", {"cpu.max": "100000"}, math.inf),
    "no-files": ("0::/", {}, math.inf),
    "least-of-all-groups": (
        f"0::{SYSTEMD}",
        {
            "user.slice/cpu.max": "400000 100000",
            "user.slice/user-1000.slice/cpu.max": "200000 100000",
            f"{SYSTEMD[1:]}/cpu.max": "300000 100000",
        },
        2,
    ),
}


@pytest.mark.parametrize("case", CORES)
def test_the_cores_of_a_container(case, groups):
    own_groups, files, cores = CORES[case]
    groups(own_groups, files)
    assert machine.container_cores() == cores


def test_without_a_list_of_the_groups(groups, monkeypatch, tmp_path):
    groups("", {"cpu.max": "150000 100000"})
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "none")
    assert machine.container_cores() == 1.5


def test_the_nodes_of_a_machine(tmp_path, monkeypatch):
    for number, cores in enumerate(["0-3,8-11", "4-7,12-15"]):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(f"{cores}\n")
    (tmp_path / "has_cpu").write_text("0-1")
    monkeypatch.setattr(machine, "NUMA_NODES", tmp_path)
    assert machine.numa_nodes() == {0: "0-3,8-11", 1: "4-7,12-15"}
