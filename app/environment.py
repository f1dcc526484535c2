"""What torch and OpenMP read from the environment once, when they are first imported, and what child processes get of it.

Whoever has set a variable keeps it.
"""

import ctypes
import os
from pathlib import Path

FOR_TORCH = {
    # OpenMP's helpers spin a little while they wait for the next layer, but not for long: with the default, 300 times as much,
    # another busy process made a decoding step of GPT-2 124M on two cores take 600 ms in place of 25; with this, 45.
    "GOMP_SPINCOUNT": "1000",
    # Weights and cache in huge pages: read at 31 GB/s in place of 12 to 20.
    "THP_MEM_ALLOC_ENABLE": "1",
}
# What a process that the service starts is given: what its Python starts by. The rest, which may hold secrets, stays here.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ", "LANG", "LC_ALL")


def of_child() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in INHERITED}


def prepare_for_torch() -> None:
    """To be called before torch is imported; nothing in app.cli does so at its head."""
    for name, value in FOR_TORCH.items():
        os.environ.setdefault(name, value)


# Of glibc's malloc (mallopt(3)): large blocks from the heap, returned by model.training.memory alone, between parts. Taking each
# tensor from the system anew, page by page, cost a tenth to a fifth of a step. In huge pages it costs nothing that can be measured
# (Zen 5: 0.91 s of the processor for two windows in place of 0.93; without huge pages 1.03), and takes less memory.
MALLOC = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 1 << 28)}
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def prepare_for_training() -> None:
    """`prepare_for_torch` and, where the system has no huge pages to ask for, memory that is kept during a part of a step."""
    prepare_for_torch()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not _has_huge_pages():  # another C library has other ways
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in HUGE_PAGES.read_text() and os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
    except OSError:
        return False
