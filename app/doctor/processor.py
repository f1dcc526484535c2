"""The processor: what it can compute with, how many cores are ours, and what slows them. Reads /proc and /sys alone."""

import platform
import re
from pathlib import Path

from app.doctor.finding import Finding, advice, ok
from model.machine import ROOT, control_groups, core_quota, cores_allowed, processors_allowed, read_system

# By the names of /proc/cpuinfo: what the kernels are written for.
FEATURES = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "AVX512-BF16", "amx_int8": "AMX",
    "asimd": "NEON", "asimddp": "dot products", "i8mm": "I8MM", "bf16": "BF16",
}  # fmt: skip
FIXED_SPEEDS = ("powersave", "conservative")


def processor(root: Path = ROOT) -> Finding:
    """Its name, and its instructions of which kernels are made."""
    info = read_system(root / "proc/cpuinfo") or ""
    name = _field(info, "model name") or _field(info, "CPU implementer") or platform.processor() or platform.machine()
    flags = (_field(info, "flags") or _field(info, "Features")).split()
    features = [shown for flag, shown in FEATURES.items() if flag in flags]
    return ok("processor", ": ".join([f"{name}, {platform.machine()}", *filter(None, [", ".join(features)])]))


def threads(wanted: int, root: Path = ROOT) -> Finding:
    """How many compute, beside the cores that this process may use and the share of time that it gets."""
    logical, cores, quota = len(processors_allowed()), cores_allowed(root), core_quota(root)
    usable = max(1, int(min(cores, quota)))
    seen = f"{cores} cores" + (f" ({logical} hardware threads)" if logical > cores else "")
    seen += f", of which the container may use {quota:g}" if quota < cores else ""
    text = f"{wanted or usable} for {seen}"
    if wanted > usable:
        return advice(
            "threads", f"{text}: they wait for each other, and each step for the slowest", f"set GPT2_THREADS to {usable}, or 0"
        )
    if wanted and wanted < usable:
        return advice("threads", f"{text}: the others are idle", f"set GPT2_THREADS to {usable}, or 0")
    if not wanted and quota < cores and quota != int(quota):
        return advice("threads", f"{text}: a part of a core is left over", "give the container whole cores (docker run --cpus)")
    return ok("threads", text)


def speed(root: Path = ROOT) -> Finding:
    """Whether somebody holds the cores back: a governor, a quota that was used up, or other processes."""
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    governor, driver = read_system(frequency / "scaling_governor"), read_system(frequency / "scaling_driver") or ""
    if governor in FIXED_SPEEDS and "pstate" not in driver:  # whose powersave is as fast as there is work
        return advice("speed", f"the frequency governor {governor} keeps cores slow", "cpupower frequency-set -g performance")
    busy, cores = float((read_system(root / "proc/loadavg") or "0").split()[0]), cores_allowed(root)
    if busy > cores / 2:
        return advice(
            "speed", f"{busy:.1f} processes have run on {cores} cores in the last minute", "leave these cores to the service"
        )
    share = max((_throttled(group) for group in control_groups(root, "cpu")), default=0.0)
    if share > 0.01:
        text = f"the container was held back in {100 * share:.0f} % of its time slices so far"
        return advice("speed", text, "raise its limit of CPU, or set GPT2_THREADS lower")
    return ok("speed", f"governor {governor}, " * bool(governor) + f"{busy:.1f} processes ran in the last minute")


def _throttled(group: Path) -> float:
    fields = dict(re.findall(r"^(\w+) (\d+)$", read_system(group / "cpu.stat") or "", re.MULTILINE))
    periods = int(fields.get("nr_periods", 0))
    return int(fields.get("nr_throttled", 0)) / periods if periods else 0.0


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", info, re.MULTILINE)
    return found[1].strip() if found else ""
