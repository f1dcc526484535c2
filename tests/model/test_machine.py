"""How many cores may be kept busy, and whether the driver finds a CUDA device: as the system says, in its files."""

import ctypes
import os
import subprocess
import sys

import pytest

from model.machine import num_cores, num_cuda_devices
from tests.system_files import lay_out


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A root directory with these files, and a process that may run on these processors, 4 unless others are named."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not tell on which processors a process may run")

    def system(processors=(0, 1, 2, 3), **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(processors))
        return lay_out(tmp_path, {FILES.get(name, name): contents for name, contents in files.items()})

    return system


FILES = {
    "own_groups": "proc/self/cgroup",
    "v2_root": "sys/fs/cgroup/cpu.max",
    "v2_parent": "sys/fs/cgroup/a.slice/cpu.max",
    "v2_own": "sys/fs/cgroup/a.slice/b.scope/cpu.max",
    "v1_quota": "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us",
    "v1_period": "sys/fs/cgroup/cpu/a/cpu.cfs_period_us",
    "v1_root_quota": "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "v1_root_period": "sys/fs/cgroup/cpu/cpu.cfs_period_us",
} | {f"siblings_{i}": f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list" for i in range(4)}


def test_without_any_limit_there_are_as_many_as_the_process_may_run_on(system):
    assert num_cores(system()) == 4
    assert num_cores(system([5])) == 1


def test_two_threads_of_a_core_count_as_one(system):
    siblings = {f"siblings_{i}": f"{i % 2},{i % 2 + 2}" for i in range(4)}
    assert num_cores(system(**siblings)) == 2
    assert num_cores(system([0, 2], **siblings)) == 1
    assert num_cores(system([0, 1], **siblings)) == 2


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 1), ("5000 100000", 1), ("800000 100000", 4)]
)
@pytest.mark.parametrize("place", ["v2_root", "v2_parent", "v2_own"])
def test_a_quota_of_control_groups_of_version_2_is_kept_wherever_it_is_set(system, place, limit, expected):
    assert num_cores(system(own_groups="0::/a.slice/b.scope", **{place: limit})) == expected


def test_the_smallest_quota_of_all_counts(system):
    limits = {"v2_root": "max 100000", "v2_parent": "200000 100000", "v2_own": "300000 100000"}
    assert num_cores(system(own_groups="0::/a.slice/b.scope", **limits)) == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("100000", 1), ("350000", 3)])
def test_a_quota_of_version_1_is_kept(system, quota, expected):
    groups = "5:memory:/m\n4:cpu,cpuacct:/a\n3:cpuset:/b\n0::/"
    assert num_cores(system(own_groups=groups, v1_quota=quota, v1_period="100000")) == expected


def test_a_container_of_version_1_sees_its_group_at_the_mounts_root(system):
    root = system(own_groups="4:cpu:/docker/0123", v1_root_quota="200000", v1_root_period="100000")
    assert num_cores(root) == 2


@pytest.mark.parametrize("contents", ["", "what is this", "1 2 3", "0 0", "-5 100000"])
def test_a_limit_that_makes_no_sense_is_none(system, contents):
    assert num_cores(system(own_groups="0::/", v2_root=contents)) == 4


def test_here_there_is_at_least_one_core_and_no_more_than_the_system_has():
    assert 1 <= num_cores() <= os.cpu_count()


def test_without_a_driver_there_is_no_cuda_device(monkeypatch):
    def not_found(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", not_found)
    assert num_cuda_devices() == 0


class Driver:
    """libcuda as far as it is asked: `cuInit` gives a code, cuDeviceGetCount a number."""

    def __init__(self, code, count):
        self.code, self.count = code, count

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.count
        return self.code


@pytest.mark.parametrize(("code", "count", "expected"), [(0, 2, 2), (0, 0, 0), (100, 1, 0)])
def test_the_driver_counts_the_devices(monkeypatch, code, count, expected):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(code, count))
    assert num_cuda_devices() == expected


def test_driver_and_pytorch_agree_here():
    code = "import torch; print(torch.cuda.device_count() if torch.version.cuda else 'not asked')"
    by_torch = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    if by_torch == "not asked":
        pytest.skip("torch was installed without CUDA")
    assert num_cuda_devices() == int(by_torch)
