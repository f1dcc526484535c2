"""What the machine offers to compute on: processor cores and CUDA devices. Asks the system and the driver; imports no torch."""

import ctypes
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path("/")
# What is told where something needs it; the slim image leaves it out.
NO_TORCH = "PyTorch is not installed here; the images gpt2-service:cpu and gpt2-service:cuda have it, elsewhere pip install torch"


def num_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those it is allowed on, one thread each, within the share of its control groups.

    A step's threads wait for each other: a second one on the same core, or one beyond the quota, holds all of them up. So a quota
    of 1.5 cores counts as one.
    """
    return max(1, int(min(cores_allowed(root), core_quota(root))))


def cores_allowed(root: Path = ROOT) -> int:
    """Whole cores that this process may run on, whatever share of their time."""
    return len({_siblings(root, cpu) for cpu in processors_allowed()})


def processors_allowed() -> set[int]:
    """The numbers of the logical processors that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def has_torch() -> bool:
    """Whether PyTorch is installed, which the slim image leaves out; takes no import of it."""
    return find_spec("torch") is not None


def num_cuda_devices() -> int:
    """As the driver counts them, which takes no import of torch; CUDA_VISIBLE_DEVICES counts. 0 without a driver."""
    driver, count = cuda_driver(), ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def cuda_bus_id(device: int = 0) -> str | None:
    """Where the first of CUDA's devices, or another, is on the PCI bus, as 0000:65:00.0: a name that does not depend on how CUDA
    counts them, which is by speed unless CUDA_DEVICE_ORDER says otherwise, and on which of them it shows. None without a driver.
    """
    driver, handle, name = cuda_driver(), ctypes.c_int(), ctypes.create_string_buffer(32)
    try:
        if driver is None or driver.cuDeviceGet(ctypes.byref(handle), device):
            return None
        return None if driver.cuDeviceGetPCIBusId(name, len(name), handle) else name.value.decode()
    except AttributeError:  # a stub, as to link against, may lack it
        return None


def cuda_driver() -> Any:
    """NVIDIA's driver as a ctypes library; None where there is none, or none that works."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        is_whole = hasattr(driver, "cuDeviceGetCount")  # a stub, as to link against, may lack it
        return driver if driver.cuInit(0) == 0 and is_whole else None
    except (OSError, AttributeError):
        return None


def _siblings(root: Path, cpu: int) -> str:
    """A name for the core that a logical processor is a thread of; the processor's own where the system does not tell."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return read_system(topology / "core_cpus_list") or read_system(topology / "thread_siblings_list") or str(cpu)


def core_quota(root: Path = ROOT) -> float:
    """Cores' worth of time that the control groups of this process and those around them grant; infinite without a limit."""
    return min(map(_cores_of, control_groups(root, "cpu")), default=float("inf"))


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's control groups, of both versions, and of those around them.

    A container may see its groups' paths as the host has them, but mounted at the root: who reads passes over what is not there.
    """
    for line in (read_system(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = mount / path.strip("/")
        yield from (directory for directory in (group, *group.parents) if directory.is_relative_to(mount))


def _cores_of(group: Path) -> float:
    """Of one control group: version 2 has "max 100000" or "150000 100000" in cpu.max, version 1 two files, -1 for no limit."""
    limit = (
        read_system(group / "cpu.max") or f"{read_system(group / 'cpu.cfs_quota_us')} {read_system(group / 'cpu.cfs_period_us')}"
    )
    try:
        microseconds, period = map(int, limit.split())
    except ValueError:  # "max", or neither version's files
        return float("inf")
    return microseconds / period if microseconds > 0 and period > 0 else float("inf")


def read_system(file: Path) -> str | None:
    """A file of /proc or /sys; None where there is none, or none for us."""
    try:
        return file.read_text().strip()
    except OSError:
        return None
