"""Builds the native step (model/native) with the package; all else that setuptools is told stands in pyproject.toml.

GPT2_REQUIRE_NATIVE=1 makes an installation without it fail where it could have been built. CXX names the compiler,
_PYTHON_HOST_PLATFORM another machine that it compiles for: CXX=aarch64-linux-gnu-g++ _PYTHON_HOST_PLATFORM=linux-aarch64.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

PACKAGE = Path("model/native")
REQUIRED = os.environ.get("GPT2_REQUIRE_NATIVE", "0") not in ("", "0")
# Products are added to in one rounding where the source says so alone: a compiler that chose for itself might choose otherwise on
# another CPU. Nothing else may be said here of floats: the bits are the same on every machine.
COMPILE = ["-std=c++20", "-O3", "-g0", "-fPIC", "-pthread", "-fvisibility=hidden"]
COMPILE += ["-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"]
LINK = ["-shared"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"]
AMX = [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
# What each file of kernels is compiled with beyond that; what lies in src itself runs on every CPU and chooses among them.
KERNELS = {
    "x86_64": {
        "scalar/table": [],
        "avx2/table": AVX2,
        "avx2/table_vnni": [*AVX2, "-mavxvnni"],
        "avx512/table": AVX512,
        "avx512/bfloat16": [*AVX512, "-mavx512bf16"],
        "amx/table": AMX,
    },
    "aarch64": {"scalar/table": [], "neon/table": ["-march=armv8.2-a+dotprod"]},
}
# "linux-x86_64", "macosx-11.0-arm64"; of a Python for two machines, "macosx-10.13-universal2", it is the one that runs.
SYSTEM, *_, ARCH = sysconfig.get_platform().replace("universal2", platform.machine()).split("-")
MACHINE = {"arm64": "aarch64"}.get(ARCH, ARCH)
if SYSTEM == "macosx":
    # Waiting on an atomic came with macOS 11.
    oldest = max(
        "11.0", os.environ.get("MACOSX_DEPLOYMENT_TARGET", ""), key=lambda version: [int(n) for n in version.split(".") if n]
    )
    target = ["-arch", ARCH, f"-mmacosx-version-min={oldest}"]
    COMPILE += target
    LINK += target
else:
    LINK += ["-pthread", "-s"]


def sources() -> dict[str, list[str]]:
    """The files to compile for this machine, and the flags of each."""
    common = {str(path): COMPILE for path in sorted(PACKAGE.glob("src/*.cpp"))}
    return common | {str(PACKAGE / f"src/{name}.cpp"): [*COMPILE, *flags] for name, flags in KERNELS.get(MACHINE, {}).items()}


step = Extension(
    "model.native._step",
    sources=list(sources()),
    depends=[str(path) for path in sorted(PACKAGE.glob("src/**/*.h"))],
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
        compiler = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, ("g++", "clang++", "c++")), "g++")]
        commands = [
            [*compiler, *flags, "-c", source, "-o", str(file)]
            for (source, flags), file in zip(sources().items(), objects, strict=True)
        ]
        try:
            with ThreadPoolExecutor(_cpus()) as threads:
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


class Wheel(bdist_wheel):
    """One wheel serves every Python, on one kind of machine."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, machine = super().get_tag()
        return (python, abi, machine) if self.root_is_pure else ("py3", "none", machine.replace("universal2", ARCH))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)


is_known = SYSTEM in ("linux", "macosx") and MACHINE in KERNELS
setup(ext_modules=[step] if is_known else [], cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel})
