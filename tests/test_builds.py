"""The package as files: sdist, wheel and native step for each machine that it is built for; built for another one it is refused."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import model.native.runner
from model.checkpoint import load_tokenizer, open_checkpoint
from model.choice import Wanted, choose_runner
from model.native.library import ABI, NAME, NativeUnavailable, load_library

ROOT = Path(__file__).parent.parent
SOURCES = {str(path.relative_to(ROOT)) for path in (ROOT / "model/native/src").rglob("*") if path.suffix in (".cpp", ".h")}
HERE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="builds for other machines start on Linux")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing: apt-get install g++")
needs_cross_compiler = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None,
    reason="needs apt-get install g++-aarch64-linux-gnu qemu-user",
)

FAKE_COMPILER = """#!/bin/sh
# Stands in for a compiler: records what it is asked for, makes files of no sense.
echo "$*" >> "$LOG"
while [ "$1" != -o ]; do shift; done
echo nothing > "$2"
"""

PROBE = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\\n", dlerror()), 1;
    printf("%d %s", ((int (*)(void))dlsym(library, "gpt2_abi"))(), ((const char* (*)(void))dlsym(library, "gpt2_kernels"))());
}
"""

SELF_TEST = """
import model.native.library
from model.native.library import Precision, available_kernels
from model.native.self_test import check_kernels
for kernels in available_kernels():
    for precision in Precision:
        check_kernels(precision, 2, kernels)
print(model.native.library.__file__)
"""


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "_PYTHON", "CXX", "MACOSX", "PIP_"))
    }
    result = subprocess.run(command, cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(what: str, directory: Path, cwd: Path, **env: str) -> Path:
    """An sdist or a wheel of the tree at `cwd`."""
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{what}({str(directory)!r})", cwd=cwd, **env)
    [file] = directory.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a copy of this tree, in which other things lie about: a library of another machine's, what Python compiled."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("app", "model"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
        shutil.copy(ROOT / name, tree)
    (tree / "model/native" / NAME).write_text("of another machine")
    (tree / "model/native/src/kernels/table.o").write_text("left over")
    return build("sdist", tmp_path_factory.mktemp("sdist"), tree)


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    return tree


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a compiler that takes no time; it records its arguments in LOG."""
    directory = tmp_path_factory.mktemp("fake")
    compiler = directory / "c++"
    compiler.write_text(FAKE_COMPILER)
    compiler.chmod(0o755)
    return {"CXX": str(compiler), "LOG": str(directory / "log")}


# ---- what is packed


def test_an_sdist_has_the_sources_of_every_machine_and_nothing_compiled(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert len(SOURCES) > 30
    assert names >= SOURCES
    assert {"setup.py", "pyproject.toml", "README.md", "model/native/sample.txt", "app/web/index.html"} <= names
    assert {f"app/web/swagger/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "LICENSE")} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


@needs_compiler
def test_a_wheel_out_of_the_sdist_computes_as_it_should_and_brings_no_source(
    unpacked: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wheel = build("wheel", tmp_path_factory.mktemp("wheel"), unpacked, GPT2_REQUIRE_NATIVE="1")
    assert wheel.name.endswith(f"-py3-none-linux_{HERE}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert f"model/native/{NAME}" in names
    assert not [name for name in names if name.startswith("model/native/src") or name.endswith((".cpp", ".h", ".o"))]
    # Into an environment of its own, which finds what it depends on in this one.
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    [site] = environment.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{Path(pytest.__file__).parent.parent}\n")
    assert run(python, "-I", "-c", SELF_TEST, cwd=environment).strip() == str(site / "model/native/library.py")


# ---- each machine


@pytest.mark.parametrize(
    ("machine", "tag", "own", "flags", "no_flags"),
    [
        ("linux-x86_64", "linux_x86_64", "amx/table", {"-pthread", "-s"}, {"-arch"}),
        ("linux-aarch64", "linux_aarch64", "neon/table", {"-pthread", "-s"}, {"-arch"}),
        ("macosx-11.0-arm64", "macosx_11_0_arm64", "neon/table", {"-arch arm64", "-mmacosx-version-min=11.0"}, {"-s"}),
        # Python's own macOS may be older than what waits on atomics; the tag takes the step's, where there is a real one to read.
        ("macosx-10.13-x86_64", "macosx_10_13_x86_64", "amx/table", {"-arch x86_64", "-mmacosx-version-min=11.0"}, {"-s"}),
        # A Python for two machines gets the step of the one that runs.
        ("macosx-11.0-universal2", f"macosx_11_0_{platform.machine()}", "scalar/table", {f"-arch {platform.machine()}"}, {"-s"}),
    ],
)
def test_each_machine_gets_its_kernels_its_flags_and_its_tag(
    machine: str,
    tag: str,
    own: str,
    flags: set[str],
    no_flags: set[str],
    unpacked: Path,
    fake: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    wheel = build(
        "wheel", tmp_path_factory.mktemp("wheel"), unpacked, _PYTHON_HOST_PLATFORM=machine, GPT2_REQUIRE_NATIVE="1", **fake
    )
    assert wheel.name.endswith(f"-py3-none-{tag}.whl")
    *compiles, link = Path(fake["LOG"]).read_text().splitlines()
    assert [line for line in compiles if f"src/{own}.cpp" in line]
    assert all("-ffp-contract=off" in line for line in compiles)
    assert link.startswith("-shared") or " -shared " in link
    for flag in flags:
        assert f" {flag} " in link
    for flag in no_flags:
        assert not [line for line in (*compiles, link) if f" {flag} " in line]


def test_a_macos_that_is_asked_for_is_taken_unless_it_is_too_old(unpacked: Path, fake: dict[str, str]) -> None:
    for asked, taken in (("10.9", "11.0"), ("14.2", "14.2")):
        env = {"_PYTHON_HOST_PLATFORM": "macosx-11.0-arm64", "MACOSX_DEPLOYMENT_TARGET": asked, **fake}
        run(sys.executable, "setup.py", "-q", "build_ext", "--force", cwd=unpacked, **env)
        assert f"-mmacosx-version-min={taken} " in Path(fake["LOG"]).read_text().splitlines()[-1]


@pytest.mark.parametrize("machine", ["linux-riscv64", "win-amd64"])
def test_elsewhere_the_package_is_plain_python(
    machine: str, unpacked: Path, fake: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    wheel = build(
        "wheel", tmp_path_factory.mktemp("wheel"), unpacked, _PYTHON_HOST_PLATFORM=machine, GPT2_REQUIRE_NATIVE="1", **fake
    )
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not Path(fake["LOG"]).exists()


def test_clang_is_taken_where_there_is_no_gcc(unpacked: Path, fake: dict[str, str]) -> None:
    directory = Path(fake["CXX"]).parent
    Path(fake["CXX"]).rename(directory / "clang++")
    output = run(sys.executable, "setup.py", "-q", "build_ext", cwd=unpacked, LOG=fake["LOG"], PATH=str(directory))
    assert re.search(r"(?m)^clang\+\+ .* -shared ", output)


@needs_cross_compiler
@pytest.mark.skipif(HERE == "aarch64", reason="here it is no other machine")
def test_a_library_for_aarch64_loads_there_and_is_refused_here(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"CXX": "aarch64-linux-gnu-g++", "_PYTHON_HOST_PLATFORM": "linux-aarch64", "GPT2_REQUIRE_NATIVE": "1"}
    run(sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "built", cwd=unpacked, **env)
    directory = unpacked / "built/model/native"
    with pytest.raises(NativeUnavailable, match=rf"^{NAME} was built for aarch64, and this is {platform.machine()}; install"):
        load_library(directory)
    (unpacked / "probe.c").write_text(PROBE)
    run("aarch64-linux-gnu-g++", "-x", "c", "probe.c", "-o", "probe", "-ldl", cwd=unpacked)
    for cpu, kernels in (("max", "neon,scalar"), ("cortex-a53", "scalar")):
        output = run("qemu-aarch64", "-cpu", cpu, "-L", "/usr/aarch64-linux-gnu", "./probe", directory / NAME, cwd=unpacked)
        assert output == f"{ABI} {kernels}"


# ---- what is refused


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A directory with the head of a library for a machine that this one is not."""
    number = 62 if HERE == "aarch64" else 183
    (tmp_path / NAME).write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0" + number.to_bytes(2, "little") + bytes(44))
    return tmp_path


def test_for_a_library_of_another_machine_pytorch_computes_and_one_line_says_why(
    foreign: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.native.runner, "load_library", lambda: load_library(foreign))
    lines: list[str] = []
    chosen = choose_runner(
        open_checkpoint(tiny_checkpoint), lambda: load_tokenizer(tiny_checkpoint), Wanted(device="cpu", num_threads=1), lines.append
    )
    assert chosen.backend == "torch"
    [line] = lines
    assert re.fullmatch(rf"computing with PyTorch in place of the native step: {NAME} was built for \w+, and this is \w+; .*", line)


def test_a_library_of_a_machine_without_a_name_is_refused_by_its_number(foreign: Path) -> None:
    data = bytearray((foreign / NAME).read_bytes())
    data[18:20] = (243).to_bytes(2, "little")
    (foreign / NAME).write_bytes(data)
    with pytest.raises(NativeUnavailable, match=r"was built for another machine \(ELF's 243\)"):
        load_library(foreign)


def test_a_library_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(NativeUnavailable, match=rf"{NAME} cannot be loaded"):
        load_library(tmp_path)
