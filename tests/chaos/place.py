"""A directory with little room to write, or none: a file system of some pages where mounting is permitted, else by limits."""

import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

PAGE_BYTES = 4096
PLENTY_BYTES = 64 << 20
MOUNT = ("mount", "-t", "tmpfs", "-o", f"size={PLENTY_BYTES}", "tmpfs")

Limit = Callable[[], None]  # to be called in each process that is to be limited


@cache
def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        mounted = subprocess.run([*MOUNT, directory], capture_output=True, check=False).returncode == 0
        return mounted and subprocess.run(["umount", directory], check=False).returncode == 0


@contextmanager
def place(directory: Path) -> Iterator[None]:
    """Make a directory with plenty of room, which the others here narrow for a while."""
    directory.mkdir()
    if not can_mount():
        yield
        return
    subprocess.run([*MOUNT, directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def with_room(directory: Path, num_pages: int) -> Iterator[Limit]:
    """So many pages more may be written there; in a single file, where mounting is not permitted."""
    if not can_mount():
        size = num_pages * PAGE_BYTES
        yield partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        return
    with _remounted(directory, f"size={(used_pages(directory) + max(num_pages, 1)) * PAGE_BYTES}"):
        yield _unlimited


@contextmanager
def read_only(directory: Path) -> Iterator[Limit]:
    if can_mount():
        with _remounted(directory, "ro"):
            yield _unlimited
        return
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield _unlimited
    finally:
        for folder in folders:
            folder.chmod(0o755)


def used_pages(directory: Path) -> int:
    if not can_mount():  # the largest file is what a limit on files bounds
        return max((path.stat().st_size for path in directory.rglob("*")), default=0) // PAGE_BYTES
    found = os.statvfs(directory)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // PAGE_BYTES


def _unlimited() -> None: ...


@contextmanager
def _remounted(directory: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", "-o", f"remount,{options}", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", f"remount,rw,size={PLENTY_BYTES}", directory], check=True)
