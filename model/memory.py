"""How much more memory this process may take before the system ends it, and how many cache slots have room there. No torch."""

from pathlib import Path
from typing import NamedTuple

from model.machine import ROOT, control_groups, read_system

NUM_SLOTS = 32  # of a CPU, where nobody asks for another number


class NoRoom(MemoryError):
    """The model and its cache need more than there is; the message has the figures, and what would fit."""


class Needs(NamedTuple):
    """Bytes: of the weights as `precision` packs them, of a full cache slot, and of what the process takes besides."""

    precision: str
    weights: int
    slot: int
    other: int

    def of(self, num_slots: int) -> int:
        return self.weights + num_slots * self.slot + self.other


def choose_slots(needs: Needs, wanted: int, free_bytes: int | None) -> int:
    """As many as are wanted, or where none are, 32 or what has room. Raises NoRoom before the system has to end the process.

    Slots take memory as positions come into use, so that too many would start, and be killed under load.
    """
    if free_bytes is None or needs.of(wanted or NUM_SLOTS) <= free_bytes:
        return wanted or NUM_SLOTS
    fitting = max((free_bytes - needs.of(0)) // needs.slot, 0)
    if fitting and not wanted:
        return fitting
    found = (
        f"weights in {needs.precision} take {mega(needs.weights)}, a full slot {mega(needs.slot)}, all else {mega(needs.other)}, "
        f"and {mega(free_bytes)} are available to this process"
    )
    if not fitting:
        raise NoRoom(f"no room for this model: {found}; give it more memory, or set GPT2_MODEL to a smaller one")
    raise NoRoom(f"no room for {wanted} cache slots: {found}; GPT2_MAX_RUNNING={fitting} would fit")


def available_bytes(root: Path = ROOT) -> int | None:
    """What can still be had without anything being killed: free or reclaimable memory and swap, within the control groups' limits.

    None where the system does not tell.
    """
    machine = _machine(root)
    swap = machine.get("SwapFree", 0)
    rooms = [room for group in control_groups(root, "memory") if (room := _room_of(group, swap)) is not None]
    if "MemAvailable" in machine:
        rooms.append(machine["MemAvailable"] + swap)
    return max(min(rooms), 0) if rooms else None


def free_swap(root: Path = ROOT) -> int:
    """Bytes."""
    return _machine(root).get("SwapFree", 0)


def _machine(root: Path) -> dict[str, int]:
    return _fields(read_system(root / "proc/meminfo"), "kB", 1024)


def _room_of(group: Path, swap: int) -> int | None:
    """Of one control group, of version 2 or 1; None without a limit. Pages of files are given up before anybody is killed."""
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        stat = _fields(read_system(group / "memory.stat"))
        reclaimable = stat.get("inactive_file", 0) + stat.get("active_file", 0) + stat.get("slab_reclaimable", 0)
        swap_limit, swap_used = _number(group / "memory.swap.max"), _number(group / "memory.swap.current")
        swap_room = swap if swap_limit is None else min(swap, max(swap_limit - (swap_used or 0), 0))
        return limit - used + reclaimable + swap_room
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    stat = _fields(read_system(group / "memory.stat"))
    reclaimable = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    both_limit, both_used = _number(group / "memory.memsw.limit_in_bytes"), _number(group / "memory.memsw.usage_in_bytes")
    room = limit - used + swap
    if both_limit is not None and both_used is not None:  # memory and swap together
        room = min(room, both_limit - both_used)
    return room + reclaimable


def _number(file: Path) -> int | None:
    text = read_system(file) or ""
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _fields(text: str | None, unit: str = "", factor: int = 1) -> dict[str, int]:
    """Lines as in "inactive_file 24576" or "MemFree:  18751596 kB"; those of another unit are left out."""
    fields = {}
    for line in (text or "").splitlines():
        name, *values = line.replace(":", " ").split() or [""]
        if values[1:] == ([unit] if unit else []) and values[0].isdecimal():
            fields[name] = int(values[0]) * factor
    return fields


def mega(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"
