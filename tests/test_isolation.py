"""What the service never does: call anybody, unpickle anything, run on a dependency with a known hole."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.api.test_shutdown import Process

ROOT = Path(__file__).parent.parent

# ---- no connection to anybody

# `gpt2 serve` that tells on standard error of every look-up of a name and every connection; it asks for one itself, to show that.
WATCHED = """
import socket, sys
def tell(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
        print("CALLS", event, repr(arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]), file=sys.stderr)
sys.addaudithook(tell)
socket.getaddrinfo("127.0.0.1", 1)
from app.cli import main
sys.exit(main())
"""
REQUESTS = {
    "/generate": {"inputs": "a", "parameters": {"max_new_tokens": 2}},
    "/generate_stream": {"inputs": "a", "parameters": {"max_new_tokens": 2}},
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "model": "openai-community/gpt2"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "https://example.com/a.png"}], "max_tokens": 2},
    "/v1/score": {"prompt": "a", "candidates": ["b"]},
    "/v1/inspect": {"prompt": "https://example.com", "max_new_tokens": 2},
    "/tokenize": {"inputs": "https://example.com " * 100},
    "/detokenize": {"ids": [1]},
    "/nowhere": {},
}
PAGES = ("/", "/docs", "/openapi.json", "/info", "/metrics", "/v1/models", "/health")


def use(process: Process) -> None:
    """One of everything that a service does, to its end."""
    with httpx.Client(base_url=process.url, timeout=120) as client:
        for path, body in REQUESTS.items():
            assert client.post(path, json=body).status_code == (404 if path == "/nowhere" else 200)
        assert all(client.get(path).status_code == 200 for path in PAGES)
    process.terminate()
    assert process.exit_code() == 0


@pytest.fixture
def serve(tiny_checkpoint: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*options: str, **program: object) -> Process:
        processes.append(Process(tiny_checkpoint, "--chat-template", "plain", *options, **program))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


def test_python_connects_to_nobody_and_looks_up_no_name_but_its_own_address(serve: Callable[..., Process]) -> None:
    process = serve(program=("-c", WATCHED))
    use(process)
    calls = [line.strip() for line in process.log if line.startswith("CALLS")]
    assert calls[0] == "CALLS socket.getaddrinfo '127.0.0.1'", "the watch works"
    assert set(calls) == {"CALLS socket.getaddrinfo '127.0.0.1'"}


def can_strace() -> bool:
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "true"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.skipif(not can_strace(), reason="strace is missing, or may not trace here")
def test_no_part_of_the_process_connects_to_anybody(serve: Callable[..., Process], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    use(serve(program=("-c", traced(trace))))
    lines = trace.read_text().splitlines()
    assert any("bind(" in line and "127.0.0.1" in line for line in lines), "the watch works"
    assert outward(lines) == []


def traced(trace: Path) -> str:
    """Python runs strace, which runs the service: what the service's libraries in C do is seen too."""
    return f"""
import subprocess, sys
command = ["strace", "-f", "-qq", "-e", "trace=bind,connect,sendto,sendmsg", "-o", {str(trace)!r}, sys.executable, "-m", "app"]
service = subprocess.Popen([*command, *sys.argv[1:]])
import signal
def end(*_):
    child = open(f"/proc/{{service.pid}}/task/{{service.pid}}/children").read().split()[0]
    import os
    os.kill(int(child), signal.SIGTERM)
signal.signal(signal.SIGTERM, end)
sys.exit(service.wait())
"""


def outward(lines: list[str]) -> list[str]:
    """Of a trace's lines those that lead to another machine."""
    calls = [line for line in lines if re.search(r"\b(connect|sendto|sendmsg)\(", line) and "AF_INET" in line]
    return [line for line in calls if "127.0.0.1" not in line]


# ---- nothing unpickled

# What loads objects, or code, out of bytes.
LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "yaml"}
ELSEWHERE = ("tests", "benchmarks")  # no part of what is installed; they read no files of strangers but to see them refused
ALLOWED = {
    # torch pickles what the processes of one training agree on; they run one command, and trust each other as torch does.
    "model/training/distributed.py: dist.broadcast_object_list",
}


def sources() -> list[Path]:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    files = [ROOT / name for name in tracked.stdout.splitlines()]
    assert len(files) > 300
    return [file for file in files if file.exists() and file.relative_to(ROOT).parts[0] not in ELSEWHERE]


def loads(node: ast.AST) -> str | None:
    """What of a piece of source could unpickle, or run, bytes."""
    if isinstance(node, ast.Import):
        return next((name.name for name in node.names if name.name.split(".")[0] in LOADERS), None)
    if isinstance(node, ast.ImportFrom):
        return node.module if (node.module or "").split(".")[0] in LOADERS else None
    if isinstance(node, ast.Name):
        return node.id if node.id in ("eval", "exec", "compile", "__import__") else None
    if not isinstance(node, ast.Call):
        return None
    called, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
    if called.endswith("torch.load") and options.get("weights_only") != "True":
        return called
    if called in ("numpy.load", "np.load", "numpy.memmap") and "allow_pickle" in options:
        return called
    if called.endswith(("_object_list", "gather_object", "send_object_list")) or options.get("shell") == "True":
        return called
    return called if called in ("os.system", "os.popen") else None


def test_no_source_unpickles_or_runs_what_it_reads() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {what}"
        for file in sources()
        for node in ast.walk(ast.parse(file.read_text()))
        if (what := loads(node))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import yaml", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "eval(text)", "from marshal import loads", "os.system(text)", "run(text, shell=True)",
        "dist.broadcast_object_list(x)",
    ],
)  # fmt: skip
def test_what_could_unpickle_is_seen(source: str) -> None:
    assert any(loads(node) for node in ast.walk(ast.parse(source)))


def test_a_service_starts_and_answers_where_nothing_can_be_unpickled(tiny_checkpoint: Path) -> None:
    code = (
        "import pickle\n"
        "def refuse(*_, **__): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "from app.cli import main\n"
        "raise SystemExit(main(['generate', 'The old man', '--max-new-tokens', '2', '--model', "
        f"{str(tiny_checkpoint)!r}, '--device', 'cpu']))\n"
    )
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"The old man")


# ---- dependencies

# The first release without what an advisory tells of, and what that is.
FLOORS = {
    "aiohttp": ("3.13.3", "CVE-2025-69223: compressed bodies without a bound"),
    "certifi": ("2024.7.4", "CVE-2024-39689: a root that is trusted no more"),
    "filelock": ("3.20.1", "CVE-2025-68146: a link in a lock's place"),
    "fonttools": ("4.60.2", "CVE-2025-66034: files written wherever a font's description says"),
    "h11": ("0.16.0", "CVE-2025-43859: lenient ends of chunks, request smuggling"),
    "httptools": ("0.6.0", "CVE-2023-30589 of llhttp before 8.1.1: a bare CR ends a header, request smuggling"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time on long names"),
    "jinja2": ("3.1.6", "CVE-2025-27516: out of the sandbox by the filter attr"),
    "pillow": ("11.3.0", "CVE-2025-48379: a write behind a buffer"),
    "protobuf": ("6.31.1", "CVE-2025-4565: bottomless nesting"),
    "requests": ("2.32.4", "CVE-2024-47081: credentials of .netrc to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: files outside of a build's folder"),
    "starlette": ("1.0.1", "a Host header that moves the address which rules look at; below 0.49.1 Range in quadratic time too"),
    "torch": ("2.6.0", "CVE-2025-32434: torch.load runs code with weights_only as well"),
    "tornado": ("6.5", "CVE-2025-47287: a log line for each bad part of a form"),
    "tqdm": ("4.66.3", "CVE-2024-34062: code in options of its command line"),
    "urllib3": ("2.6.3", "CVE-2026-21441 and those of 2025: answers that unpack without a bound"),
    "werkzeug": ("3.0.6", "CVE-2024-49767: forms that take memory without a bound"),
}
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_nothing_with_a_known_hole(lock: str) -> None:
    pins = dict(re.findall(r"(?m)^([\w.-]+)==([\w.]+)", (ROOT / lock).read_text()))
    assert {"jinja2", "requests", "urllib3"} & {normal(name) for name in pins}
    for name, version in pins.items():
        floor, reason = FLOORS.get(normal(name), ("0", ""))
        assert Version(version) >= Version(floor), f"{name} {version}: {reason}"


def test_what_is_installed_beside_the_package_has_no_known_hole_either() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        Requirement(line) for line in (*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values()))
    ]
    for requirement in asked:
        if (name := normal(requirement.name)) in FLOORS:
            lowest = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
            assert lowest, f"{name} has no floor"
            assert max(lowest) >= Version(FLOORS[name][0]), f"{requirement}: {FLOORS[name][1]}"
