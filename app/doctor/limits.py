"""What the system and a container allow a process: open files, threads, rights; and whether its clocks are good ones."""

import ctypes
import os
import time
from pathlib import Path

from app.doctor.finding import Finding, advice, ok
from app.network.limits import OTHER_FILES
from model.machine import ROOT, control_groups, read_system

FEW_CONNECTIONS = 32  # fewer serve nobody but whoever tries it
OTHER_THREADS = 32  # of the event loop, the engine, readers of long texts and of requests' bodies
GOOD_CLOCKS = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter")  # read without entering the kernel
UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
CLOCK_PATH = "sys/devices/system/clocksource/clocksource0/current_clocksource"
CONTAINERS = {".dockerenv": "Docker", "run/.containerenv": "Podman", "var/run/secrets/kubernetes.io": "Kubernetes"}


def open_file_limits() -> tuple[float, float]:
    """Soft and hard."""
    import resource  # not on Windows, where nothing limits them

    soft, hard = (float("inf") if n == resource.RLIM_INFINITY else n for n in resource.getrlimit(resource.RLIMIT_NOFILE))
    return soft, hard


def open_files(max_connections: int, limits: tuple[float, float]) -> Finding:
    """The service raises the soft limit by itself, as far as the hard one."""
    soft, hard = limits
    needed = max_connections + OTHER_FILES
    if hard >= needed:
        raised = "" if soft >= needed else f"; the service raises its limit from {soft:g}"
        return ok("open files", f"{hard:g} allowed, {needed} needed for {max_connections} connections{raised}")
    room = max(int(hard) - OTHER_FILES, 1)
    text = f"{hard:g} allowed: {room} connection{'s' if room > 1 else ''} in place of {max_connections}"
    if room < min(max_connections, FEW_CONNECTIONS):
        text += ", too few to serve anybody: it would start, and refuse nearly all"
    return advice("open files", text, f"ulimit -n {needed} (LimitNOFILE, --ulimit nofile), or a lower GPT2_MAX_CONNECTIONS")


def processes(num_threads: int, root: Path = ROOT) -> Finding:
    """Threads count as processes in a container's limit."""
    needed = num_threads + OTHER_THREADS
    rooms = []
    for group in control_groups(root, "pids"):
        limit, used = read_system(group / "pids.max") or "", read_system(group / "pids.current") or ""
        if limit.isdecimal() and used.isdecimal():
            rooms.append(int(limit) - int(used))
    if rooms and min(rooms) < needed:
        text = f"{max(min(rooms), 0)} more allowed in this container, {needed} may be needed"
        return advice("processes", text, "raise its limit (docker run --pids-limit, pids_limit)")
    return ok("processes", f"{min(rooms)} more allowed, {needed} may be needed" if rooms else "no limit")


def rights(root: Path = ROOT) -> Finding:
    """Who runs it, and where."""
    kinds = [kind for file, kind in CONTAINERS.items() if (root / file).exists()]
    status = dict(line.split(":", 1) for line in (read_system(root / "proc/self/status") or "").splitlines() if ":" in line)
    user = status.get("Uid", str(os.getuid())).split()[0]
    capabilities = int(status.get("CapEff", "0").strip() or "0", 16)
    where = f"in {kinds[-1]}" if kinds else "in no known container"
    text = f"{'root' if user == '0' else f'user {user}'}, {where}, {'with' if capabilities else 'without'} capabilities"
    if user == "0":
        return advice("rights", f"{text}: the service needs no root", "run it as another user, as the images do")
    return ok("rights", text)


def clock(is_synchronised: bool | None, built: float, root: Path = ROOT) -> Finding:
    """The wall clock is in log lines and metrics; durations are of a monotonic one, which nobody sets."""
    source = read_system(root / CLOCK_PATH)
    if time.time() < built - 86_400:
        text = f"it is {time.strftime('%Y-%m-%d')} here, before this package was installed"
        return advice("clock", text, "set the clock, or start chronyd")
    if source is not None and source not in GOOD_CLOCKS:
        return advice(
            "clock",
            f"source {source}, which is slow to read",
            f"clocksource=tsc as the kernel's option, if /{CLOCK_PATH} may be it",
        )
    if is_synchronised is False:
        return advice(
            "clock", f"source {source}, set by nobody: log lines may tell a wrong time", "start chronyd or systemd-timesyncd"
        )
    return ok(
        "clock",
        f"source {source or 'unknown'}, " + ("synchronised" if is_synchronised else "whether it is set by anybody is not told"),
    )


def is_synchronised() -> bool | None:
    """As the kernel says; None where it does not."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    buffer = ctypes.create_string_buffer(512)  # a struct timex, larger than any; zeros ask and change nothing
    if adjtimex(buffer) < 0:
        return None
    status_at = 40 if ctypes.sizeof(ctypes.c_long) == 8 else 20
    return not int.from_bytes(buffer.raw[status_at : status_at + 4], "little") & UNSYNCHRONISED
