"""Builds the native step (model/native) with the package; all else that setuptools is told stands in pyproject.toml.

GPT2_REQUIRE_NATIVE=1 makes an installation without it fail where it could have been built.
"""

import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

PACKAGE = Path("model/native")
REQUIRED = os.environ.get("GPT2_REQUIRE_NATIVE", "0") not in ("", "0")
# For every x86-64 CPU: what needs more says so in the source, and runs where gpt2_features finds it. Products are added to in one
# rounding where the source says so alone: a compiler that chose for itself might choose otherwise in each copy of a function.
COMPILE = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-ffp-contract=off"]
LINK = ["-shared", "-fopenmp", "-s"]

step = Extension(
    "model.native._step",
    sources=[str(path) for path in sorted(PACKAGE.glob("src/*.cpp"))],
    depends=[str(path) for path in sorted(PACKAGE.glob("src/*.h"))],
    extra_compile_args=COMPILE,
    extra_link_args=LINK,
    language="c++",
    optional=not REQUIRED,
)


class BuildNative(build_ext):
    """Runs the compiler itself, with these flags alone: those that Python was built with may name a CPU or loosen arithmetic."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))  # one name for every Python: it is no module of Python's

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)
        objects = [Path(self.build_temp, source).with_suffix(".o") for source in ext.sources]
        for directory in {file.parent for file in objects}:
            directory.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CXX") or "g++")
        commands = [
            [*compiler, *ext.extra_compile_args, "-c", source, "-o", str(file)]
            for source, file in zip(ext.sources, objects, strict=True)
        ]
        try:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                list(threads.map(_run, commands))
            _run([*compiler, *map(str, objects), *ext.extra_link_args, "-o", str(library)])
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(error) if isinstance(error, OSError) else f"{compiler[0]} refused it, see above"
            raise CompileError(
                reason + ("; installed without it: PyTorch computes in its place" if ext.optional else "")
            ) from error

    def copy_extensions_to_source(self) -> None:
        (PACKAGE / "_step.so").unlink(missing_ok=True)  # nothing older stays where this build failed
        super().copy_extensions_to_source()


def _run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)


is_known = sys.platform == "linux" and platform.machine() == "x86_64"
setup(ext_modules=[step] if is_known else [], cmdclass={"build_ext": BuildNative})
