"""What the machine offers to compute on: processor cores and CUDA devices. Asks the system and the driver; imports no torch."""

import ctypes
import os
import sys
from pathlib import Path

ROOT = Path("/")


def num_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those it is allowed on, one thread each, within the share of its control groups.

    A step's threads wait for each other: a second one on the same core, or one beyond the quota, holds all of them up. So a quota
    of 1.5 cores counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = {_siblings(root, cpu) for cpu in os.sched_getaffinity(0)}
        return max(1, int(min(len(cores), _quota(root))))
    return os.cpu_count() or 1


def num_cuda_devices() -> int:
    """As the driver counts them, which takes no import of torch; CUDA_VISIBLE_DEVICES counts. 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if found else 0


def _siblings(root: Path, cpu: int) -> str:
    """A name for the core that a logical processor is a thread of; the processor's own where the system does not tell."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(cpu)


def _quota(root: Path) -> float:
    """Cores' worth of time that the control groups of this process and those around them grant; infinite without a limit.

    A container may see its groups' paths as the host has them, but mounted at the root: a path that is not there is passed over.
    """
    quota = float("inf")
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = mount / path.strip("/")
        for directory in (group, *group.parents):
            if directory.is_relative_to(mount):
                quota = min(quota, _cores_of(directory))
    return quota


def _cores_of(group: Path) -> float:
    """Of one control group: version 2 has "max 100000" or "150000 100000" in cpu.max, version 1 two files, -1 for no limit."""
    limit = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    try:
        microseconds, period = map(int, limit.split())
    except ValueError:  # "max", or neither version's files
        return float("inf")
    return microseconds / period if microseconds > 0 and period > 0 else float("inf")


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
