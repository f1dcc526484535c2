"""Who could reach the service, and what is in its way: the address and the keys. Takes the port for no longer than a look."""

import logging
from pathlib import Path

from app.bootstrap import open_keys
from app.doctor.finding import Finding, advice, ok, problem
from app.errors import StartupError
from app.listening import is_loopback, take_address
from app.settings import Settings
from model.machine import ROOT, read_system

LISTENING = "0A"  # in /proc/net/tcp


def address(settings: Settings, has_keys: bool, root: Path = ROOT) -> Finding:
    where = f"port {settings.port} of {settings.host}"
    try:
        for taken in take_address(settings.host, settings.port):
            taken.close()
    except StartupError as error:
        holder = holder_of(settings.port, root)
        return problem("address", error, f"that is {holder}" if holder else "")
    if not is_loopback(settings.host) and not has_keys:
        text = f"{where} is free; other machines reach it, and it asks for no API key"
        return advice("address", text, "set GPT2_API_KEYS_FILE, or GPT2_HOST to 127.0.0.1")
    return ok("address", f"{where} is free, for {'this machine alone' if is_loopback(settings.host) else 'other machines too'}")


def keys(settings: Settings) -> tuple[Finding, bool]:
    """What is found, and whether there are any."""
    log, told = logging.getLogger("gpt2.keys"), _Lines()
    log.addHandler(told)
    try:
        found = open_keys(settings)
    except StartupError as error:
        return problem("keys", error), True
    finally:
        log.removeHandler(told)
    if found is None:
        return ok("keys", "none: whoever reaches the port may ask"), False
    if told.lines:
        return advice("keys", f"{len(found)}; {told.lines[0]}", f"chmod o-r {settings.api_keys_file}"), True
    return ok("keys", f"{len(found)}"), True


class _Lines(logging.Handler):
    """What would be logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def holder_of(port: int, root: Path = ROOT) -> str | None:
    """The process that listens on a port, as far as it is ours to see."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in (read_system(root / "proc/net" / name) or "").splitlines()[1:]]
    inodes = {row[9] for row in rows if len(row) > 9 and row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port}
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for files in (root / "proc").glob("[0-9]*/fd") if sockets else ():
        try:
            if any(str(file.readlink()) in sockets for file in files.iterdir()):
                return f"process {files.parent.name} ({read_system(files.parent / 'comm')})"
        except OSError:  # another user's, or it has just ended
            continue
    return None
