"""The native step's sources compiled in other ways than the installation does: for another machine, or with sanitizers.

What was compiled stays in build/tests, under a name that tells the sources, the flags and the compiler apart.
"""

import contextlib
import functools
import hashlib
import os
import platform
import runpy
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "model/native/src"
TESTS = Path(__file__).parent
BUILDS = ROOT / "build/tests"


@functools.cache
def sources(machine: str = platform.machine()) -> dict[str, list[str]]:
    """What the installation compiles on such a machine, and the flags of each file."""
    platform_of_build = mock.patch.dict(os.environ, {"_PYTHON_HOST_PLATFORM": f"linux-{machine}"})  # heard by sysconfig
    with mock.patch("setuptools.setup"), platform_of_build, contextlib.chdir(ROOT):
        return runpy.run_path("setup.py")["sources"]()


def compile_all(
    name: str,
    *,
    machine: str = platform.machine(),
    compiler: str = "g++",
    flags: Sequence[str] = (),
    programs: Sequence[str] = (),
    link: Sequence[str] = (),
) -> Path:
    """A directory with an object file for each of the sources, and programs of this directory that are linked with all of them."""
    files, mains = sources(machine), {f"tests/model/native/{program}.cpp": program for program in programs}
    made_of = hashlib.sha256(repr((files, compiler, flags, programs, link)).encode())
    for file in sorted([*SOURCES.rglob("*.h"), *(ROOT / source for source in (*files, *mains))]):
        made_of.update(file.read_bytes())
    directory = BUILDS / f"{name}-{made_of.hexdigest()[:16]}"
    if directory.exists():
        return directory
    for older in BUILDS.glob(f"{name}-*"):
        shutil.rmtree(older)
    making = directory.with_suffix(f".{os.getpid()}")
    making.mkdir(parents=True)
    common = next(iter(files.values()))
    commands = [
        [compiler, *of_file, *flags, "-c", source, "-o", making / object_of(source)]
        for source, of_file in (files | dict.fromkeys(mains, common)).items()
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(_run, commands))
    for main, program in mains.items():
        objects = [making / object_of(source) for source in (*files, main)]
        _run([compiler, *flags, *objects, "-pthread", *link, "-o", making / program])
    return making.rename(directory)


def object_of(source: str) -> str:
    """As in "avx2_table.o"."""
    return "_".join(Path(source).with_suffix(".o").parts[-2:])


def _run(command: list[str]) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
