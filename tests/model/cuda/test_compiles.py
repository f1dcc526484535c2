"""Every kernel of a step is compiled for cards that are not here, with the shapes of real models: see `compiling`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

SHARED_BYTES = 99 * 1024  # that a program may have on compute capabilities 8.6 and 8.9, the least from 8.0 on
SPILLED_BYTES = 8  # a thread: for another program on the multiprocessor the assembler may give up two registers of itself
PRODUCTS = {"_qkv", "_attention", "_residual", "_fc", "_head"}


@pytest.fixture(scope="module")
def kernels():
    if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas").exists():
        pytest.skip("this build of Triton comes without ptxas, NVIDIA's assembler")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.model.cuda.compiling"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_of_the_network_compiles_for_each_dtype(kernels):
    assert {(one["kernel"], one["dtype"]) for one in kernels} >= {
        (name, f"torch.{dtype}") for name in PRODUCTS | {"_embed", "_norm"} for dtype in ("float32", "bfloat16", "float16")
    }
    assert {one["kernel"] for one in kernels} >= {"_log_sums", "_adjust", "_filters", "_parts", "_choose"}


def test_no_kernel_spills(kernels):
    assert [one for one in kernels if one["stack"] > SPILLED_BYTES] == []


def test_every_kernel_fits_the_shared_memory_of_the_smallest_card(kernels):
    assert [one for one in kernels if one["shared"] > SHARED_BYTES] == []


def test_tensor_cores_multiply_halves_and_never_float32(kernels):
    products = [one for one in kernels if one["kernel"] in PRODUCTS]
    assert [one for one in products if one["uses_tensor_cores"] != (one["dtype"] != "torch.float32")] == []
    assert [one for one in kernels if one["uses_tf32"]] == []


def test_each_kernel_has_a_form_that_starts_before_the_one_before_has_ended(kernels):
    assert {one["kernel"] for one in kernels if one["waits"]} == {one["kernel"] for one in kernels}
    assert not [one for one in kernels if one["waits"] and one["arch"] < 90]
