"""The compiled step as a file: built here, refused where it is not this package's, and honest about this CPU."""

import ast
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import ABI, Feature, NativeUnavailable, Precision, load_library
from model.native.runner import NativeRunner

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "model/native/src"
# What Linux calls the parts of each feature.
CPU_FLAGS = {
    Feature.AVX512: {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"},
    Feature.AVX512_BF16: {"avx512_bf16"},
    Feature.AVX512_VNNI: {"avx512_vnni"},
    Feature.AMX_BF16: {"amx_tile", "amx_bf16"},
    Feature.AMX_INT8: {"amx_tile", "amx_int8"},
}

is_known = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not is_known, reason="the native step is for Linux on x86-64")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing: apt-get install g++")


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory with a library of functions by these names, each of which returns 999."""

    def compile_functions(*names: str) -> Path:
        source = tmp_path / "step.c"
        source.write_text("".join(f"int {name}(void) {{ return 999; }}\n" for name in names))
        subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", source, "-o", tmp_path / "_step.so"], check=True)
        return tmp_path

    return compile_functions


def cpu_flags() -> set[str]:
    flags = re.search(r"(?m)^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text())
    assert flags
    return set(flags[1].split())


def runner(precision: Precision, features: Feature) -> NativeRunner:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2, eos_token_id=0)
    return NativeRunner(GPT2(config), 1, precision, 1, features)


# ---- the file


@needs_compiler
def test_where_there_is_a_compiler_the_installation_built_the_library_of_this_version() -> None:
    assert load_library().gpt2_abi() == ABI
    assert f"\n#define GPT2_ABI {ABI} " in (SOURCES / "interface.h").read_text()


def test_a_directory_without_a_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NativeUnavailable, match="it was not built"):
        load_library(tmp_path)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_step.so").write_bytes(b"no library at all")
    with pytest.raises(NativeUnavailable, match=r"_step\.so cannot be loaded: .*(file too short|invalid ELF header)"):
        load_library(tmp_path)


@needs_compiler
def test_a_library_that_lacks_a_function_is_refused_and_the_function_named(compiled: Callable[..., Path]) -> None:
    with pytest.raises(NativeUnavailable, match=r"_step\.so cannot be loaded: .*gpt2_last_error"):
        load_library(compiled("gpt2_abi", "gpt2_features"))


@needs_compiler
def test_a_library_of_another_version_is_refused(compiled: Callable[..., Path]) -> None:
    functions = re.findall(r"(?m)^[\w* ]+?(gpt2_\w+)\(", (SOURCES / "interface.h").read_text())
    with pytest.raises(NativeUnavailable, match=r"_step\.so is of another version"):
        load_library(compiled(*functions))


def test_another_kind_of_cpu_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_step.so").touch()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(NativeUnavailable, match="x86-64, and this is aarch64"):
        load_library(tmp_path)


def test_torch_and_the_library_share_the_openmp_library_that_torch_brings(features: Feature) -> None:
    # With two of them there would be two teams of threads, and an image without libgomp could not load ours.
    program = """
import torch
from model.native.library import load_library
load_library()
print(*{line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.rpartition("/")[2]})
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [Path(path).parent for path in result.stdout.split()] == [Path(torch.__file__).parent / "lib"]


# ---- the CPU


def test_features_are_those_that_linux_lists(features: Feature) -> None:
    for feature, flags in CPU_FLAGS.items():
        if feature in features:
            assert flags <= cpu_flags()
        elif "amx_tile" not in flags:  # the system may list tiles and yet refuse them to a process
            assert not flags <= cpu_flags()


@pytest.mark.parametrize(
    ("precision", "lacking", "name"),
    [
        (Precision.FLOAT32, Feature.AVX512, "AVX-512"),
        (Precision.BFLOAT16, Feature.AVX512, "AVX-512"),
        (Precision.BFLOAT16, Feature.AVX512_BF16, "AVX512_BF16"),
        (Precision.INT8, Feature.AVX512_VNNI, "AVX512_VNNI"),
    ],
)
def test_a_precision_whose_instructions_are_lacking_is_refused_and_they_are_named(
    features: Feature, precision: Precision, lacking: Feature, name: str
) -> None:
    with pytest.raises(NativeUnavailable, match=f"lacks {name}$"):
        runner(precision, features & ~lacking)


def test_instructions_that_this_cpu_lacks_are_refused(features: Feature) -> None:
    lacking = Feature(~int(features) & (int(features) + 1))  # the lowest bit that is not set
    with pytest.raises(NativeUnavailable, match="features are asked for that this CPU lacks"):
        runner(Precision.FLOAT32, features | lacking)


def vector_code(file: Path) -> set[str]:
    """What a compiled file has of instructions and registers that not every x86-64 CPU has: AVX, AVX-512 and AMX."""
    assembly = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True).stdout
    assert re.search(r"\tret", assembly), "no code was found"
    mnemonics = re.findall(r"(?m)^\s*[0-9a-f]+:\t(v(?!er[rw]\b)[a-z]\w*|t(?:dp|ile)\w+|\w*tilecfg)\b", assembly)
    return {*mnemonics, *re.findall(r"%[yz]mm\d+|%tmm\d|%k[0-7]", assembly)}


@needs_compiler
@pytest.mark.parametrize("name", ["features", "interface", "step"])
def test_what_runs_before_the_cpu_is_known_runs_on_every_cpu(name: str, tmp_path: Path) -> None:
    [flags] = re.findall(r"(?m)^COMPILE = (\[.*\])$", (ROOT / "setup.py").read_text())
    file = tmp_path / f"{name}.o"
    subprocess.run(["g++", *ast.literal_eval(flags), "-c", SOURCES / f"{name}.cpp", "-o", file], check=True)
    assert vector_code(file) == set()


@needs_compiler
@pytest.mark.parametrize(
    ("instruction", "seen"),
    [
        ("vmulss %xmm1, %xmm0, %xmm0", {"vmulss"}),  # on registers that every CPU has
        ("vaddps %ymm1, %ymm0, %ymm0", {"vaddps", "%ymm0", "%ymm1"}),
        ("kmovw %eax, %k3", {"%k3"}),
        ("tilerelease", {"tilerelease"}),
        ("mulss %xmm1, %xmm0; verr %ax; verw %ax", set()),
    ],
)
def test_code_that_some_cpus_lack_would_be_seen(instruction: str, seen: set[str], tmp_path: Path) -> None:
    source, file = tmp_path / "code.s", tmp_path / "code.o"
    source.write_text(f"{instruction}\nret\n")
    subprocess.run(["g++", "-c", source, "-o", file], check=True)
    assert vector_code(file) == seen
