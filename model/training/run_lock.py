"""One process trains in a directory at a time: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from model.training.errors import TrainingError

NAME = "lock"


@contextlib.contextmanager
def training_lock(out: Path) -> Iterator[None]:
    """Hold OUT/training/lock, or raise TrainingError naming the process that does; leaves no empty directories behind."""
    check_name(out)
    file = out / "training" / NAME
    new = [directory for directory in (file.parent, out) if not directory.exists()]
    descriptor = _acquire(file, out)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a directory is not empty, or takes no changes
            file.unlink()
            for directory in new:
                directory.rmdir()
        os.close(descriptor)


def check_name(out: Path) -> None:
    """Refuse a file, and a name by which PyTorch could not open a state again."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise TrainingError(f"--out {str(out)!r} is no UTF-8, so that the run could not be resumed; name another --out") from None
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file; --out names a directory")


def check_not_trained_in(out: Path) -> None:
    """Refuse to write into a directory while a run does, which may not have saved anything yet."""
    file = out / "training" / NAME
    if file.exists():
        os.close(_acquire(file, out))


def _acquire(file: Path, out: Path) -> int:
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another process has just taken the directory away
            continue
        if not _is_granted(descriptor):
            raise TrainingError(_refusal(descriptor, out))
        if _is_in_place(descriptor, file):
            break
        os.close(descriptor)  # the one who had it has unlinked it: this lock would keep nobody out
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return descriptor


def _is_granted(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no locks
        return True
    return True


def _is_in_place(descriptor: int, file: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False


def _refusal(descriptor: int, out: Path) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        day, clock = holder["since"].split()
        where = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
        since = clock if day == time.strftime("%Y-%m-%d") else holder["since"]
        who = f"process {holder['pid']}{where} since {since}"
    except (ValueError, KeyError, TypeError):  # it has not written it yet
        who = "another process"
    finally:
        os.close(descriptor)
    return f"{out} is being trained in by {who}; wait for it, stop it, or choose another --out"
