"""What this machine lacks for the other scripts here, by trying to import it: `python -m benchmarks.gpu.missing run WHEELS`.

Prints one `pip download` line that brings the wheels, to be run where there is a network, and ends with 1 where something is
missing. Needs the standard library alone. Packages of which torch, transformers and Triton are made have to be there.
With `--python 3.12` it looks at nothing, and the line brings all there is to bring for that Python: for a machine out of reach.
"""

import argparse
import importlib
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements-dev.lock"
# What a folder of wheels can hardly hold: part of the machine. The packages below may come with it too, or as wheels.
MACHINE = ("torch", "triton", "transformers")
# Distributions and the modules by which they are imported; a wheel brings nothing along, so those that others need are named too.
TRAINING = {
    "certifi": "certifi",
    "charset-normalizer": "charset_normalizer",
    "idna": "idna",
    "numpy": "numpy",
    "regex": "regex",
    "requests": "requests",
    "safetensors": "safetensors",
    "tiktoken": "tiktoken",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
    "urllib3": "urllib3",
}
SERVICE = {
    "annotated-doc": "annotated_doc",
    "annotated-types": "annotated_types",
    "anyio": "anyio",
    "click": "click",
    "fastapi": "fastapi",
    "h11": "h11",
    "httptools": "httptools",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "opentelemetry-api": "opentelemetry",
    "orjson": "orjson",
    "prometheus-client": "prometheus_client",
    "pydantic": "pydantic",
    "pydantic-core": "pydantic_core",
    "pydantic-settings": "pydantic_settings",
    "python-dotenv": "dotenv",
    "starlette": "starlette",
    "structlog": "structlog",
    "typing-extensions": "typing_extensions",
    "typing-inspection": "typing_inspection",
    "uvicorn": "uvicorn",
    "uvloop": "uvloop",
}
TESTS = {
    "execnet": "execnet",
    "httpcore": "httpcore",
    "httpx": "httpx",
    "hypothesis": "hypothesis",
    "iniconfig": "iniconfig",
    "packaging": "packaging",
    "pluggy": "pluggy",
    "psutil": "psutil",
    "pygments": "pygments",
    "pytest": "pytest",
    "pytest-timeout": "pytest_timeout",
    "pytest-xdist": "xdist",
    "sortedcontainers": "sortedcontainers",
}
NEEDED = {"run": TRAINING | SERVICE | TESTS, "train": TRAINING}
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("script", choices=NEEDED, help="the script that is to run")
    parser.add_argument("wheels", help="the folder of wheels that the line is to fill")
    parser.add_argument("--python", metavar="3.N", help="name all wheels for this Python, of a machine that cannot be asked")
    options = parser.parse_args(arguments)
    if options.python:
        print(download_line(NEEDED[options.script], options.wheels, options.python))
        return 0
    lacking = [*_lacking_machine(), *(f"{name}, which the machine has to bring" for name in MACHINE if why_not(name))]
    missing = {name: why for name, module in NEEDED[options.script].items() if (why := why_not(module))}
    for line in [*lacking, *(f"{name}: {why}" for name, why in missing.items())]:
        print(f"missing: {line}")
    if missing:
        print(f"to be run where there is a network:\n{download_line(missing, options.wheels)}")
    return 1 if lacking or missing else 0


def why_not(module: str) -> str | None:
    """What keeps a module from being imported, None if nothing does."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package may raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _lacking_machine() -> list[str]:
    """What Triton builds its launchers with, at the first kernel's first call."""
    lacking = []
    if not any(map(shutil.which, ("gcc", "clang", "cc"))):
        lacking.append("a C compiler, gcc or clang, for Triton")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        lacking.append(f"Python.h, for Triton; Debian has it in python{sys.version_info.major}.{sys.version_info.minor}-dev")
    return lacking


def download_line(names: Iterable[str], wheels: str, version: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> str:
    """Fetches wheels for a Python of this machine's processor, in the versions that the lock names, where it does."""
    versions = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    wanted = [f"{name}=={versions[name]}" if name in versions else name for name in names]
    platforms = [f"--platform={name}_{platform.machine()}" for name in PLATFORMS]
    python = [f"--python-version={version}", "--implementation=cp"]
    return shlex.join(["pip", "download", "--no-deps", "--only-binary=:all:", *python, *platforms, "-d", wheels, *wanted])


if __name__ == "__main__":
    sys.exit(main())
