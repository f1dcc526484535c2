"""NVIDIA's cards as the driver tells of them, and whether this PyTorch can use them. Imports torch only where there is one."""

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.doctor.finding import Finding, advice, ok
from model.machine import ROOT, cuda_driver, read_system

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
OLDEST = (8, 0)  # that Triton compiles for
NOEXEC = getattr(os, "ST_NOEXEC", 8)


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    capability: tuple[int, int]
    memory: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]}, {self.memory / 1e9:,.0f} GB)"


def cards(root: Path = ROOT) -> tuple[list[Card], str]:
    """All that CUDA_VISIBLE_DEVICES leaves, and which driver there is; nothing without one."""
    driver, count, version = cuda_driver(), ctypes.c_int(0), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return [], ""
    driver.cuDriverGetVersion(ctypes.byref(version))
    number = re.search(r"  (\d+[\d.]+) ", read_system(root / "proc/driver/nvidia/version") or "")
    of_driver = f"driver {number[1]} for CUDA" if number else "driver for CUDA"
    return [_card(driver, i) for i in range(count.value)], f"{of_driver} {version.value // 1000}.{version.value % 1000 // 10}"


def _card(driver: Any, index: int) -> Card:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, 256, device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Card(name.value.decode(errors="replace"), (major.value, minor.value), memory.value)


def gpu(found: list[Card], driver: str, wanted: str, device: str) -> Finding:
    """`wanted` is the setting, `device` what then computes here."""
    if not found:
        return ok("gpu", "none, or none that the driver shows")
    text = f"{', '.join(map(str, found))}; {driver}"
    if wanted == "cpu":
        return advice("gpu", f"{text}: idle, since GPT2_DEVICE is cpu", "leave GPT2_DEVICE at auto")
    if device == "cpu":
        build = torch_build() if find_spec("torch") is not None else "not installed"
        reason = "PyTorch was built without CUDA" if build is None else f"PyTorch is {build} and finds no card"
        return advice("gpu", f"{text}: idle, since {reason}", "install PyTorch's build for this driver's CUDA")
    if found[0].capability < OLDEST:
        return advice("gpu", f"{text}: plain PyTorch computes, Triton's kernels need 8.0", "take a newer card")
    if (cache := _cache()) is not None and not may_load_from(cache):
        return advice("gpu", f"{text}; compiled kernels cannot be kept in {cache}", "set TRITON_CACHE_DIR to a folder on a disk")
    return ok("gpu", f"{text}; PyTorch is {torch_build()}")


def torch_build() -> str | None:
    """Its version and that of the CUDA that it was built with; None without one."""
    import torch

    return None if torch.version.cuda is None else f"{torch.__version__} for CUDA {torch.version.cuda}"


def _cache() -> Path | None:
    return Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton") if sys.platform == "linux" else None


def may_load_from(folder: Path) -> bool:
    """Whether files can be written there, or in the nearest that exists, and libraries loaded from it."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return os.access(nearest, os.W_OK) and not os.statvfs(nearest).f_flag & NOEXEC
