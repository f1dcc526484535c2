"""vLLM's command line, `vllm`, held to an instruction set where ATEN_CPU_CAPABILITY says so.

vLLM has a library of kernels for each set, and asks PyTorch which the CPU has, whatever PyTorch itself is held to. The processes
that it starts run this file's first lines again.
"""

import os
import sys
from pathlib import Path

import torch

held_to = os.environ.get("ATEN_CPU_CAPABILITY", "")
# What it compiles it keeps, and would take again for another set.
os.environ["VLLM_CACHE_ROOT"] = str(Path(sys.prefix).with_name(f"cache-{held_to or 'native'}"))
if held_to == "avx2":
    for has in ("_is_avx512_supported", "_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported"):
        assert hasattr(torch.cpu, has), f"torch.cpu has changed: {has} is not in it"
        setattr(torch.cpu, has, lambda: False)


if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
