"""An image's files run as docker-compose.yml runs its container, without a container engine; needs root, and buildah.

A read-only root, no capabilities and none to gain, the image's own user, a limit on processes, namespaces of its own for mounts,
processes and IPC. The network is the machine's, so that the service listens on the loopback interface alone.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

MAX_PROCESSES = 512  # as in docker-compose.yml
PATIENCE_SECONDS = 120.0
CGROUPS = Path("/sys/fs/cgroup")
NO_CAPABILITIES = "--clear-groups --inh-caps=-all --ambient-caps=-all --bounding-set=-all --no-new-privs"
# What the shell does in the new namespaces before it becomes the command; $0 is the image's root.
MOUNTS = """set -e
mount --make-rprivate /
mount --bind "$0" "$0"
mount -o remount,bind,ro "$0"
mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 tmpfs "$0/tmp"
mount -t proc -o nosuid,nodev,noexec proc "$0/proc"
mount --rbind -o ro /sys "$0/sys"
mount -t tmpfs -o nosuid,noexec tmpfs "$0/dev"
for device in null zero full random urandom; do touch "$0/dev/$device"; mount --bind "/dev/$device" "$0/dev/$device"; done
exec chroot "$0" "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What buildah has under a name: its configuration as Docker writes it, its layers, and its files mounted at `root`."""

    name: str
    config: dict[str, Any]
    layers: tuple[tuple[str, int], ...]  # who made it, and its bytes as a tar file: as an engine counts them
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])


@contextmanager
def opened(name: str) -> Iterator[Image]:
    """Mounts a container of the image that nothing runs in, and removes it with the block."""
    found = json.loads(_buildah("inspect", "--type=image", name))
    container = _buildah("from", "--pull-never", name)
    try:
        yield Image(name, found["Docker"]["config"], _layers(found), Path(_buildah("mount", container)))
    finally:
        _buildah("rm", container)


def _layers(found: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The base's own come first, and count as one: its history says nothing of use."""
    sizes = [layer["size"] for layer in json.loads(found["Manifest"])["layers"]]
    makers = [entry.get("created_by", "") for entry in found["Docker"]["history"] if not entry.get("empty_layer")]
    of_ours = next(number for number, maker in enumerate(makers) if "groupadd" in maker)
    ours = [(_shown(maker), size) for maker, size in zip(makers[of_ours:], sizes[of_ours:], strict=True)]
    return (("the base", sum(sizes[:of_ours])), *ours)


def _shown(maker: str) -> str:
    text = " ".join(re.sub(r"#\(nop\)|(file|dir):\w+ in ", "", maker).removeprefix("/bin/sh -c").split())
    return text if len(text) <= 70 else f"{text[:67]}..."


@contextmanager
def limited() -> Iterator[Path]:
    """A control group with a limit on processes; versions 1 and 2 differ in where it lies."""
    parent = CGROUPS / "pids" if (CGROUPS / "pids").is_dir() else CGROUPS
    group = parent / f"gpt2-image-{os.getpid()}"
    group.mkdir()
    try:
        (group / "pids.max").write_text(str(MAX_PROCESSES))
        yield group
    finally:
        _until(lambda: not (group / "cgroup.procs").read_text(), "processes of the image are still there")
        group.rmdir()


@dataclass(slots=True)
class Running:
    """A command of an image that runs hardened; `process` is who waits for it, and `pid` is its own, as seen from here."""

    image: Image
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def status(self, name: str) -> str:
        """A line of its /proc status, as in CapEff or Uid."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return str(re.findall(rf"(?m)^{name}:\s+(.*)$", text)[0])

    def root_options(self) -> set[str]:
        mounts = [line.split() for line in Path(f"/proc/{self.pid}/mounts").read_text().splitlines()]
        return set(next(options for _, target, _, options, *_ in mounts if target == "/").split(","))

    def beside(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """A command within the same namespaces and root, as the same user: as `docker exec` and HEALTHCHECK run theirs."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--ipc", "--root", "--setuid=10001", "--setgid=10001"]
        return subprocess.run(
            [*inside, "env", "-i", *_assigned(self.image, environment), *command], capture_output=True, text=True, check=False
        )

    def end(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def run(image: Image, command: list[str], group: Path, **environment: str) -> Iterator[Running]:
    """Starts a command, whose output is the process's; killed with all that it started if it has not ended with the block."""
    user, _, users_group = image.config["User"].partition(":")
    dropped = ["setpriv", f"--reuid={user}", f"--regid={users_group}", *NO_CAPABILITIES.split()]
    started = [*dropped, "env", "-i", f"--chdir={image.config['WorkingDir']}", *_assigned(image, environment), *command]
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "bash", "-c"]
    joined = f'echo $$ > {shlex.quote(str(group / "cgroup.procs"))}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", joined, "bash", *namespaces, MOUNTS, str(image.root), *started],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield Running(image, process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def serve(image: Image, group: Path, **environment: str) -> Iterator[tuple[Running, int, float]]:
    """The image's own entry point, its port, and the seconds until it was ready."""
    port = _free_port()
    given = {"GPT2_HOST": "127.0.0.1", "GPT2_PORT": str(port)} | environment
    with run(image, image.config["Entrypoint"], group, **given) as running:
        _until(lambda: running.process.poll() is not None or _is_ready(port), "the service does not come up")
        seconds = time.monotonic() - running.started
        if running.process.poll() is not None:
            output = running.process.communicate()[0].decode(errors="replace")
            raise RuntimeError(f"the service ended with {running.process.returncode}: {output[-2000:]}")
        yield running, port, seconds


def finished(image: Image, command: list[str], group: Path, **environment: str) -> tuple[int, str]:
    """A command's exit code and the last line that it wrote."""
    with run(image, command, group, **environment) as running:
        output = running.process.communicate(timeout=PATIENCE_SECONDS)[0].decode(errors="replace")
        return running.process.returncode, (output.strip().splitlines() or [""])[-1]


def _assigned(image: Image, environment: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in (image.environment | environment).items()]


def _is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _until(is_so: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.01)


def _buildah(*arguments: str) -> str:
    result = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"buildah {arguments[0]}: {result.stderr.strip()}")
    return result.stdout.strip()
