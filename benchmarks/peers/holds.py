"""Holds contenders to an instruction set smaller than the machine's, and sees whether they obeyed. Imports no peer.

A set has the name that GPT2_KERNELS has for it. No library can be hindered from using an instruction that the CPU has; each is
asked by its own setting, and Linux tells afterwards which process had AVX-512's registers in use.
"""

import re
from collections.abc import Iterable
from pathlib import Path

# In the environment of everybody, ours included; each reads its own.
ENVIRONMENTS = {
    "avx2": {
        "GPT2_KERNELS": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels, and what torch.compile makes, vLLM's
        "TORCHINDUCTOR_CPP_MARCH": "haswell",  # else the compiler that it calls takes what the CPU has
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # PyTorch's, OpenVINO's and CTranslate2's oneDNN, and code that OpenVINO makes
        "OV_CPU_MAX_ISA": "AVX2",  # OpenVINO's compiled code, attention among it
        "CT2_FORCE_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        # NumPy by the names of its older and newer versions; it passes over those that it does not know.
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4",
        # The C library's copying and searching; else every process would be seen to use AVX-512.
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
    }
}


def is_larger_machine(hold: str) -> bool:
    """Whether this machine has more than `hold`, so that there is something to hold."""
    return hold == "avx2" and re.search(r"^flags\s*:.* avx512f ", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None


def family(pid: int) -> Iterable[int]:
    """A process and those it has started, and they."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def used_avx512(pid: int, seconds: float) -> bool:
    """Whether a thread of a process or of its family had AVX-512's registers in use in the last `seconds`.

    Linux notes it whenever it takes a thread off a processor, some hundred times a second at least while that is busy.
    """
    for member in family(pid):
        for status in Path(f"/proc/{member}/task").glob("*/arch_status"):
            ago = re.search(r"AVX512_elapsed_ms:\s+(-?\d+)", status.read_text())
            if ago and 0 <= int(ago[1]) < 1000 * seconds:
                return True
    return False
