"""Memory: what the service needs beside what there is, and in which pages it comes."""

from pathlib import Path

from app.doctor.finding import Finding, advice, ok, problem
from model.machine import ROOT, control_groups, read_system
from model.memory import NUM_SLOTS, Needs, NoRoom, available_bytes, choose_slots, free_swap, mega

HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"
MIN_SWAPPED = 0.25  # of what is needed


def memory(ladder: list[Needs], wanted: int, root: Path = ROOT) -> tuple[Finding, int | None]:
    """What is found, and the number of cache slots.

    The precision that is tried first comes first, then the one that is taken where the checkpoint does not bear it.
    """
    free_bytes = available_bytes(root)
    try:
        num_slots = choose_slots(ladder[0], wanted, free_bytes)
    except NoRoom as error:
        return problem("memory", f"GPT2_MAX_RUNNING: {error}"), None
    return _judged(ladder, wanted, num_slots, free_bytes, root), num_slots


def _judged(ladder: list[Needs], wanted: int, num_slots: int, free_bytes: int | None, root: Path) -> Finding:
    needs = ladder[0]
    there = "an unknown amount" if free_bytes is None else mega(free_bytes)
    space = address_space(root)
    needed = ", ".join(f"{mega(n.of(num_slots))} in {n.precision}" for n in ladder)
    text = f"needs {needed} for {num_slots} full slots; {there} available"
    if space is not None:
        text += f", within {mega(space)} of address space (ulimit -v)"
        if max(n.of(num_slots) for n in ladder) > space:
            return advice("memory", f"{text}: the start may fail for it", "ulimit -v unlimited; a container limits memory better")
    if not wanted and num_slots < NUM_SLOTS:
        return advice("memory", f"{text}: room for {num_slots} slots in place of {NUM_SLOTS}", "give the process more memory")
    if free_bytes is not None and ladder[-1].of(num_slots) > free_bytes:
        return advice("memory", f"{text}: should the checkpoint not bear {needs.precision}", "set GPT2_MAX_RUNNING lower")
    if (high := _soft_limit(root)) is not None and needs.of(num_slots) > high:
        return advice("memory", f"{text}, but from {mega(high)} on the kernel slows it (memory.high)", "raise memory.high")
    if free_bytes is not None and needs.of(num_slots) > free_bytes - free_swap(root):
        return advice("memory", f"{text}, some of it swap, by which steps take seconds", "set GPT2_MAX_RUNNING lower")
    return ok("memory", text)


def address_space(root: Path = ROOT) -> int | None:
    """What is left of it under `ulimit -v`; None without a limit. Threads and libraries take some that is never memory, so that
    what is enough here may be too little for the service."""
    import resource  # not on Windows, where nothing limits it

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    lines = (read_system(root / "proc/self/status") or "").splitlines()
    mapped = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:")), 0)
    return max(limit - mapped, 0)


def huge_pages(root: Path = ROOT) -> Finding:
    """The native step asks for them, and so does PyTorch here; the system may refuse them all."""
    setting = read_system(root / HUGE_PAGES)
    if setting is None:
        return ok("huge pages", "this system does not tell")
    chosen = setting.partition("[")[2].partition("]")[0]
    if chosen == "never":
        text = "never given: weights and cache lie in small pages, which takes longer to read"
        return advice("huge pages", text, f"echo madvise > /{HUGE_PAGES}")
    return ok("huge pages", f"{chosen}: weights and cache ask for them")


def _soft_limit(root: Path) -> int | None:
    texts = [read_system(group / "memory.high") or "" for group in control_groups(root, "memory")]
    return min((int(text) for text in texts if text.isdecimal()), default=None)
