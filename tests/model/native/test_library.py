"""The compiled step as a file: built here, refused where it is not this package's, and honest about this CPU."""

import functools
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import ABI, MACHINES, KernelsUnavailable, NativeUnavailable, Precision, load_library
from model.native.runner import NativeRunner
from model.network_files import weights_of
from tests.model.native.compiling import compile_all, object_of, sources
from tests.model.native.kinds import KERNELS

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "model/native/src"
# What Linux calls the instructions of each set.
CPU_FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "amx": {"avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"},
    "neon": {"asimd", "asimddp"},
    "scalar": set(),
}

is_known = sys.platform == "linux" and platform.machine() in MACHINES
pytestmark = pytest.mark.skipif(not is_known, reason="Linux on x86-64 or aarch64 alone")
is_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64's instructions")
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
    flags = re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text())
    assert flags
    return set(flags[1].split())


def symbols_of(file: Path, *options: str) -> str:
    """A line for each: its address, a letter that tells its kind, its name."""
    return subprocess.run(["nm", "--defined-only", *options, file], capture_output=True, text=True, check=True).stdout


def runner(kernels: str) -> NativeRunner:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2, eos_token_ids=(0,))
    return NativeRunner(config, weights_of(GPT2(config)), 1, Precision.FLOAT32, 1, kernels)


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
        load_library(compiled("gpt2_abi", "gpt2_kernels"))


@needs_compiler
def test_a_library_of_another_version_is_refused(compiled: Callable[..., Path]) -> None:
    functions = re.findall(r"(?m)^[\w* ]+?(gpt2_\w+)\(", (SOURCES / "interface.h").read_text())
    with pytest.raises(NativeUnavailable, match=r"_step\.so is of another version"):
        load_library(compiled(*functions))


def test_another_kind_of_cpu_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_step.so").touch()
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(NativeUnavailable, match="x86-64 and aarch64, and this is riscv64"):
        load_library(tmp_path)


def test_the_library_needs_nothing_but_the_systems_own() -> None:
    """No OpenMP: a second team of threads beside torch's, and a file that an image may lack."""
    needed = subprocess.run(["objdump", "-p", load_library()._name], capture_output=True, text=True, check=True).stdout
    libraries = {name.split(".so")[0] for name in re.findall(r"NEEDED +(\S+)", needed)}
    assert libraries <= {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


def test_what_the_library_exports_is_the_interface_alone() -> None:
    symbols = symbols_of(load_library()._name, "-D")
    declared = set(re.findall(r"(?m)^[\w* ]+?(gpt2_\w+)\(", (SOURCES / "interface.h").read_text()))
    ours = {line.split()[-1] for line in symbols.splitlines() if line.split()[-2] == "T"}
    assert ours == declared


# ---- the CPU


def test_the_sets_of_kernels_are_those_whose_instructions_linux_lists(available: tuple[str, ...]) -> None:
    for kernels in KERNELS:
        if kernels in available:
            assert CPU_FLAGS[kernels] <= cpu_flags()
        elif kernels != "amx":  # the system may list tiles and yet refuse them to a process
            assert not CPU_FLAGS[kernels] <= cpu_flags()
    assert available[-1] == "scalar"


def test_kernels_that_are_asked_for_by_name_are_used(available: tuple[str, ...]) -> None:
    assert runner("auto").kernels in available
    for kernels in available:
        assert runner(kernels).kernels == kernels


@pytest.mark.parametrize("kernels", ["amx", "avx512", "avx2", "neon"])
def test_kernels_that_this_cpu_cannot_run_are_refused_with_those_that_it_can(available: tuple[str, ...], kernels: str) -> None:
    if kernels in available:
        pytest.skip(f"this CPU can run {kernels} kernels")
    with pytest.raises(KernelsUnavailable, match=kernels) as refusal:
        runner(kernels)
    for there in available:
        assert there in str(refusal.value)


# ---- the compiled files, each of a set of instructions


@functools.cache
def objects() -> Path:
    """With less optimisation than the installation's: which instructions there may be does not depend on it, and more functions
    stay functions, which a linker could merge."""
    return compile_all("objects", flags=["-O1"])


def assembly_of(file: Path) -> str:
    assembly = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True).stdout
    assert re.search(r"\tret", assembly), "no code was found"
    return assembly


def vector_code(file: Path) -> set[str]:
    """What a compiled file has of instructions and registers that not every x86-64 CPU has: AVX, AVX-512 and AMX."""
    assembly = assembly_of(file)
    mnemonics = re.findall(r"(?m)^\s*[0-9a-f]+:\t(v(?!er[rw]\b)[a-z]\w*|t(?:dp|ile)\w+|\w*tilecfg)\b", assembly)
    return {*mnemonics, *re.findall(r"%[yz]mm\d+|%tmm\d|%k[0-7]", assembly)}


# What must not be found in the files of each set.
AMX = r"%tmm|tilecfg|\ttile"
AVX512 = r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2\d|3[01])"
FORBIDDEN = {
    "avx2_table.o": rf"{AMX}|{AVX512}|\tvpdp",
    "avx2_table_vnni.o": rf"{AMX}|{AVX512}",
    "avx512_table.o": rf"{AMX}|\tv\w*bf16",
    "avx512_bfloat16.o": AMX,
}
SETS = sorted(Path(source).parent.name for source in sources() if Path(source).parent != Path("model/native/src"))


@is_x86
@needs_compiler
def test_what_runs_before_the_cpu_is_known_and_the_scalar_kernels_run_on_every_cpu() -> None:
    files = [object_of(source) for source in sources() if Path(source).parent.name in ("src", "scalar")]
    assert len(files) == len(list(SOURCES.glob("*.cpp"))) + 1
    assert {file: vector_code(objects() / file) for file in files} == {file: set() for file in files}


@is_x86
@needs_compiler
@pytest.mark.parametrize("file", FORBIDDEN)
def test_kernels_hold_no_instruction_of_another_set(file: str) -> None:
    assert re.findall(rf".*(?:{FORBIDDEN[file]}).*", assembly_of(objects() / file)) == []


@needs_compiler
def test_kernels_share_no_code_that_the_linker_could_merge_with_what_every_cpu_runs() -> None:
    """An inline function of the standard library that is compiled for AVX-512 in one file and for any CPU in another would
    be one in the library: whichever came first."""
    kernels = [object_of(source) for source in sources() if Path(source).parent.name != "src"]
    assert len(kernels) == len(SETS) >= 2
    for file in kernels:
        symbols = symbols_of(objects() / file)
        assert re.findall(r"(?m)^\w+ [^rdbtaDR] .*$", symbols) == [], file
        shared = re.findall(r"(?m)^\w+ [A-Z] (.*)$", symbols)  # the tables, which the choice among them looks at
        assert shared
        assert all(re.fullmatch(r"_ZN4gpt2\w+(_kernels|_bfloat16)E", name) for name in shared), file


@is_x86
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
