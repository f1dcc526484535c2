"""What an image must be: each requirement with its figure, in a table and in benchmarks/results/images.json.

    python -m deploy.image.check slim cpu

Takes images that deploy/image/build.sh has built by buildah, and runs them hardened; an image of Docker's is brought by
`buildah pull docker-daemon:gpt2-service:cpu`. Needs root. The exit code is 1 if a requirement is missed.
"""

import argparse
import ast
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from app.version import VERSION
from deploy.image.hardened import MAX_PROCESSES, Image, Running, finished, limited, opened, serve
from deploy.licences import debian_licences

RESULTS = Path("benchmarks/results/images.json")
MAX_MEGABYTES = {"slim": 500, "cpu": 1300}  # 10^6 bytes
READY_SECONDS = 5.0
STARTS = 3
DTYPES = ("float32", "bfloat16", "int8")
COMPILERS = ("as", "c++", "cc", "clang", "g++", "gcc", "ld", "make", "rustc")
# What a build may leave behind: caches, lists, configuration that would name where it was built.
LEFT_OVERS = (
    "root/.cache", "root/.config", "root/.pip", "etc/pip.conf", "src", "service", "packages", "tmp/*", "var/tmp/*", "srv/*",
    "var/lib/apt/lists/*_*", "var/cache/apt/archives/*.deb",
)  # fmt: skip
TEXT = "/usr/share/common-licenses/BSD"  # one that every image has


class Requirement(NamedTuple):
    what: str
    wanted: str
    found: str
    holds: bool


class Checked(NamedTuple):
    image: Image
    requirements: list[Requirement]
    debian: dict[str, list[str]]  # the base's packages, with their licences


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.image.check", description="Check images that buildah has.")
    parser.add_argument("targets", nargs="+", choices=("cpu", "slim", "cuda"), metavar="TARGET", help="cpu, slim or cuda")
    targets = parser.parse_args().targets
    if os.geteuid():
        parser.error("namespaces and mounts need root")
    missed = 0
    try:
        for target in targets:
            checked = check(target)
            _show(checked.image, checked.requirements)
            _keep(target, checked)
            missed += sum(not requirement.holds for requirement in checked.requirements)
    except RuntimeError as error:
        sys.exit(f"check: {error}")
    return 1 if missed else 0


def check(target: str) -> Checked:
    with opened(f"localhost/gpt2-service:{target}") as image:
        requirements = [*_of_configuration(target, image), *_of_files(target, image), *_of_runs(target, image)]
        return Checked(image, requirements, debian_licences(image.root))


def _of_configuration(target: str, image: Image) -> Iterator[Requirement]:
    config = image.config
    megabytes = sum(size for _, size in image.layers) / 1e6
    if target in MAX_MEGABYTES:
        limit = MAX_MEGABYTES[target]
        yield Requirement("size, all layers unpacked", f"<= {limit:,} MB", f"{megabytes:,.1f} MB", megabytes <= limit)
    yield _equal("user", "10001:10001", config["User"])
    yield _equal("entry point, without a shell", "gpt2 serve", " ".join(config["Entrypoint"]))
    yield _equal("signal that stops it", "SIGTERM", config["StopSignal"])
    yield _equal("version in its labels", VERSION, config["Labels"]["org.opencontainers.image.version"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    yield _equal("commit in its labels", head, config["Labels"]["org.opencontainers.image.revision"].removesuffix("-dirty"))


def _of_files(target: str, image: Image) -> Iterator[Requirement]:
    files = [path for path in image.root.rglob("*") if not path.is_symlink() and path.is_file()]
    yield _none("setuid and setgid files", [path for path in files if path.stat().st_mode & 0o6000], image)
    writable = [path for path in files if path.stat().st_mode & stat.S_IWOTH or path.stat().st_uid == 10001]
    yield _none("files that the service's user could write", writable, image)
    folders = [image.root / folder for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "opt/gpt2/bin")]
    allowed = {"as", "cc", "gcc", "ld"} if target == "cuda" else set()  # Triton's
    compilers = [folder / name for folder in folders for name in COMPILERS if name not in allowed and (folder / name).exists()]
    yield _none("compilers", compilers, image)
    yield _none("left over by the build", [path for pattern in LEFT_OVERS for path in image.root.glob(pattern)], image)
    code = [
        path for path in files if path.suffix == ".py" and "site-packages" in path.parts and (image.root / "opt") in path.parents
    ]
    yield _none("modules that would be compiled anew at each start", [path for path in code if not _is_compiled(path)], image)
    has_torch = any((image.root / "opt/gpt2/lib").glob("python3*/site-packages/torch"))
    yield _equal("PyTorch", "no" if target == "slim" else "yes", "yes" if has_torch else "no")


def _is_compiled(module: Path) -> bool:
    """Or cannot be: empty ones, and templates and code of other Pythons that no start imports."""
    compiled = next(module.parent.glob(f"__pycache__/{module.stem}.cpython-*.pyc"), None)
    if compiled is not None:
        return compiled.read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: by a hash that nobody compares, so of any date
    try:
        ast.parse(module.read_bytes())
    except (SyntaxError, ValueError):
        return True
    return False


def _of_runs(target: str, image: Image) -> Iterator[Requirement]:
    with limited() as group:
        seconds = []
        for _ in range(STARTS):
            with serve(image, group) as (running, port, ready):
                seconds.append(ready)
                answer = _generated(port)
                found = [*_of_process(running, group)]
                code = running.end()
        yield from found
        worst = max(seconds)
        yield Requirement(
            f"ready, the slowest of {STARTS} starts", f"<= {READY_SECONDS:g} s", f"{worst:.2f} s", worst <= READY_SECONDS
        )
        yield Requirement("POST /generate", "a text", repr(answer[:40]), bool(answer))
        yield _equal("exit code at SIGTERM", "0", str(code))
        for dtype in DTYPES:
            yield _serves(image, group, dtype)
        yield from (_of_slim if target == "slim" else _of_torch)(image, group)


def _of_process(running: Running, group: Path) -> Iterator[Requirement]:
    yield Requirement(
        "root", "read-only", "read-only" if "ro" in running.root_options() else "writable", "ro" in running.root_options()
    )
    yield _equal(
        "user and group of the process", "10001 10001", f"{running.status('Uid').split()[0]} {running.status('Gid').split()[0]}"
    )
    capabilities = {name: running.status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    yield _equal(
        "capabilities, those that it could gain among them", "0", str(max(int(value, 16) for value in capabilities.values()))
    )
    yield _equal("no new privileges", "1", running.status("NoNewPrivs"))
    used = int((group / "pids.current").read_text())
    yield Requirement("processes and threads", f"<= {MAX_PROCESSES}, a limit", str(used), used <= MAX_PROCESSES)
    health = running.beside(running.image.config["Healthcheck"]["Test"][1:], _address_of(running))
    yield _equal("exit code of HEALTHCHECK, run beside it", "0", str(health.returncode))


def _address_of(running: Running) -> dict[str, str]:
    entries = Path(f"/proc/{running.pid}/environ").read_text().split("\0")
    return {"GPT2_PORT": next(entry for entry in entries if entry.startswith("GPT2_PORT=")).removeprefix("GPT2_PORT=")}


def _serves(image: Image, group: Path, dtype: str) -> Requirement:
    try:
        with serve(image, group, GPT2_DTYPE=dtype) as (running, port, _):
            answer = _generated(port)
            return Requirement(f"serves in {dtype}", "a text", repr(answer[:40]), bool(answer) and running.end() == 0)
    except RuntimeError as error:
        return Requirement(f"serves in {dtype}", "a text", str(error)[-200:], False)


def _of_slim(image: Image, group: Path) -> Iterator[Requirement]:
    """What it cannot do it says in a line, with the image that can."""
    refusals: list[tuple[int, list[str], dict[str, str]]] = [
        (2, ["gpt2", "eval", TEXT], {}),
        (2, ["gpt2", "train", "pretrain", TEXT, "--out", "/tmp/new"], {}),
        (78, ["gpt2", "serve"], {"GPT2_DEVICE": "cuda"}),
        (78, ["gpt2", "serve"], {"GPT2_DEVICE": "cpu", "GPT2_KERNELS": "torch"}),
    ]
    for wanted, command, environment in refusals:
        code, line = finished(image, command, group, **environment)
        asked = " ".join([*(f"{name}={value}" for name, value in environment.items()), *command])
        yield Requirement(asked, f"{wanted}, names the image", f"{code}: {line}", code == wanted and "gpt2-service:cpu" in line)


def _of_torch(image: Image, group: Path) -> Iterator[Requirement]:
    code, line = finished(image, ["gpt2", "eval", TEXT, "--device", "cpu"], group)
    yield Requirement("gpt2 eval, which PyTorch computes", "0", f"{code}: {line}", code == 0)


def _generated(port: int) -> str:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"inputs": "It was", "parameters": {"max_new_tokens": 16, "seed": 1}})
    connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
    return str(json.loads(connection.getresponse().read())["generated_text"])


def _equal(what: str, wanted: str, found: str) -> Requirement:
    return Requirement(what, wanted, found, found == wanted)


def _none(what: str, paths: list[Path], image: Image) -> Requirement:
    """Some of what should not be there, by the image's own paths."""
    shown = ", ".join(str(path.relative_to(image.root)) for path in paths[:3])
    return Requirement(what, "0", f"{len(paths)}{f': {shown}' if paths else ''}", not paths)


def _show(image: Image, requirements: list[Requirement]) -> None:
    print(f"\n{image.name}\n\n    MB  layer")
    for maker, size in image.layers:
        print(f"{size / 1e6:6.1f}  {maker}")
    print(f"\n{'':7} {'requirement':52} {'wanted':24} found")
    for what, wanted, found, holds in requirements:
        print(f"{'holds' if holds else 'MISSED':7} {what:52} {wanted:24} {found}")


def _keep(target: str, checked: Checked) -> None:
    image, requirements, debian = checked
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[target] = {
        "command": f"python -m deploy.image.check {target}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}",
        "revision": image.config["Labels"]["org.opencontainers.image.revision"],
        "debian": debian,
        "layers": [{"layer": maker, "bytes": size} for maker, size in image.layers],
        "requirements": [requirement._asdict() for requirement in requirements],
    }
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


def _cpu() -> str:
    names = re.findall(r"(?m)^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    return str(names[0]) if names else "a CPU without a name"


if __name__ == "__main__":
    sys.exit(main())
