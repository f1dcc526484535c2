"""benchmarks/peaks.cpp runs on any CPU: on this one, and on older ones that qemu plays where it is installed."""

import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent.parent / "benchmarks" / "peaks.cpp"
BASE = {"x86_64": "scalar", "aarch64": "neon"}.get(platform.machine(), "")

pytestmark = pytest.mark.skipif(not (shutil.which("g++") and BASE), reason="needs g++ for x86-64 or AArch64")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("peaks") / "peaks"
    subprocess.run(["g++", "-O2", "-fopenmp", "-Wall", "-Werror", str(SOURCE), "-o", str(program)], check=True)
    return str(program)


def peaks(*command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout)
    return found


def test_the_largest_set_that_the_cpu_has_is_measured_or_the_one_that_is_named(program: str) -> None:
    for found, name in ((peaks(program, "1", "1"), None), (peaks(program, "1", "1", BASE), BASE)):
        assert name in (None, found["set"])
        assert all(found[speed] > 0 for speed in ("read_gb_per_second", "float32_gflops", "bfloat16_gflops", "int8_gops"))


def test_a_set_that_the_cpu_does_not_have_is_refused_by_name(program: str) -> None:
    result = subprocess.run([program, "1", "1", "mmx"], capture_output=True, text=True)
    assert result.returncode == 1
    assert f"this CPU has no mmx; it has {BASE}" in result.stderr


@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-user")
@pytest.mark.skipif(BASE != "scalar", reason="of x86-64")
@pytest.mark.parametrize(("cpu", "name"), [("Nehalem", "scalar"), ("Haswell", "avx2")])
def test_a_cpu_without_avx512_runs_what_it_has(program: str, cpu: str, name: str) -> None:
    assert peaks("qemu-x86_64", "-cpu", cpu, program, "1", "1")["set"] == name
