"""Compiles the kernels of a step as `DeviceStep` launches them, for cards that need not be there, and tells what they take.

A program of its own, as Triton either interprets or compiles: `python -m tests.model.cuda.compiling` writes JSON, a kernel a line.
Nothing is computed: the tensors are PyTorch's "meta", shapes without values.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from model.config import PRESETS
from model.cuda.kernel_set import EARLY, TRITON, KernelSet
from model.cuda.kernels.early import MIN_CAPABILITY
from model.cuda.network import for_kernels
from model.cuda.step import DeviceStep
from model.gpt2 import GPT2

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32",
}  # fmt: skip

# A model's shapes, its weights' dtype and the card's compute capability times 10. Not all there are: a kernel compiles in 0.5 s.
GRID = (
    ("gpt2", torch.bfloat16, 90), ("gpt2", torch.float16, 90), ("gpt2", torch.float32, 90),
    ("gpt2-xl", torch.bfloat16, 80), ("gpt2-xl", torch.float16, 80), ("gpt2-xl", torch.float32, 80),
    ("wide heads", torch.bfloat16, 80), ("wide heads", torch.float32, 90),
)  # fmt: skip
OPTIONS = "num_warps", "num_stages", "enable_fp_fusion", "launch_pdl"
CONFIGS = PRESETS | {"wide heads": replace(PRESETS["gpt2"], n_embd=1280, n_head=10)}  # of 128


@dataclass(frozen=True)
class Compiled:
    """Of a kernel: registers a thread and bytes of its stack (what spills), bytes of shared memory a program."""

    kernel: str
    model: str
    dtype: str
    arch: int
    registers: int
    stack: int
    shared: int
    uses_tensor_cores: bool
    uses_tf32: bool
    waits: bool  # for the kernel before, which has not ended yet


def launches(model: str, dtype: torch.dtype, kernels: KernelSet) -> list[tuple[JITFunction, tuple[object, ...], dict[str, object]]]:
    """Those of a step of one layer: the kernels, with their arguments."""
    made = []
    JITFunction.run = lambda kernel, *args, grid, warmup, **named: made.append((kernel, args, named))
    with torch.device("meta"):
        network = for_kernels(GPT2(replace(CONFIGS[model], n_layer=1)), torch.device("meta"), dtype)
        step = DeviceStep(network, kernels, num_slots=64)
    step.forward(num_rows=64)
    step.draw(num_draws=64)
    return made


def source(kernel: JITFunction, args: tuple[object, ...], named: Mapping[str, object]) -> ASTSource:
    values = dict(zip(kernel.arg_names, args, strict=False)) | {name: named[name] for name in kernel.arg_names if name in named}
    signature, constants, aligned = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            if not parameter.do_not_specialize_on_alignment:
                aligned[i,] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
    return ASTSource(kernel, signature, constants, aligned)


def resources(cubin: bytes) -> dict[str, int]:
    """Such as REG and STACK."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        told = subprocess.run([TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", told)}


def compiled() -> Iterator[Compiled]:
    seen = set()
    for model, dtype, arch in GRID:
        sets = (TRITON, EARLY) if arch >= 10 * MIN_CAPABILITY[0] else (TRITON,)
        for kernel, args, named in itertools.chain(*(launches(model, dtype, kernels) for kernels in sets)):
            src, options = source(kernel, args, named), {name: named[name] for name in OPTIONS if name in named}
            if (key := (src.hash(), arch, str(options))) in seen:
                continue
            seen.add(key)
            made = triton.compile(src, target=GPUTarget("cuda", arch, 32), options=options)
            ptx, used = made.asm["ptx"], resources(made.asm["cubin"])
            yield Compiled(
                kernel.fn.__name__, model, str(dtype), arch,
                used["REG"], used["STACK"], made.metadata.shared,
                uses_tensor_cores="mma" in ptx, uses_tf32="tf32" in ptx, waits="griddepcontrol.wait" in ptx,
            )  # fmt: skip


if __name__ == "__main__":
    for one in compiled():
        sys.stdout.write(json.dumps(asdict(one)) + "\n")
