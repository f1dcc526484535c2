"""The native step under gcc's sanitizers: what it computes for the digests, and the C interface at random, on every set of kernels.

AddressSanitizer sees a read or write beyond what was given or taken, UndefinedBehaviorSanitizer arithmetic that means nothing, and
ThreadSanitizer two threads at one place. `make sanitize` runs these alone.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.model.native.compiling import compile_all
from tests.model.native.digests import digests_of, expected_digests

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is missing: apt-get install g++")

# Alignment, null pointers and objects' sizes are looked at by the CPU and AddressSanitizer; here they would double the compilation.
UNCHECKED = "null,vptr,returns-nonnull-attribute,nonnull-attribute,object-size,alignment"
SANITIZERS = {
    "address_and_undefined": ["-fsanitize=address,undefined", f"-fno-sanitize={UNCHECKED}", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@pytest.fixture(scope="module", params=SANITIZERS.values(), ids=SANITIZERS)
def programs(request: pytest.FixtureRequest) -> Path:
    return compile_all(request.param[0].partition("=")[2], flags=["-O1", *request.param], programs=["digests", "fuzz"])


def test_what_the_digests_are_made_of_is_computed_without_a_fault(programs: Path, available: tuple[str, ...]) -> None:
    expected = expected_digests()
    vectors = ",".join(kernels for kernels in available if kernels != "scalar") or "scalar"
    computed = [*digests_of([programs / "digests", "3", vectors]), *digests_of([programs / "digests", "2", "scalar", "tails"])]
    assert computed
    assert [digest for digest in computed if expected.get(digest.name, digest.value) != digest.value] == []


def test_the_interface_at_random_is_free_of_faults(programs: Path) -> None:
    result = subprocess.run([programs / "fuzz", "3", "12"], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
