"""In which precision matrices are multiplied, by what pays on the device. Knows products of matrices; not networks, nor files.

An instruction set does not say it: bfloat16 takes half of float32's time with AVX-512's instructions for it, and five times as long
or more where a compiler's plain loop imitates it (both measured on one Zen 4, the second held to AVX2).
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.training.distributed import Processes

# Of float32's time. What autocast converts besides eats up a smaller gain, and a result near the border would differ from run to
# run: measured were 0.3 to 0.7 and 4 to 22.
PAYS_BELOW = 0.8
# A few milliseconds. Wider matrices give the same answer later; the steps of narrower networks take as long either way.
NUM_ROWS, NUM_MATRICES, MIN_WIDTH, MAX_WIDTH = 512, 4, 128, 512
NUM_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Products:
    """The products of a training step in bfloat16, by the time that they take in float32."""

    bfloat16_share: float

    @property
    def bfloat16_pays(self) -> bool:
        return self.bfloat16_share < PAYS_BELOW


def choose_bfloat16(device: torch.device, width: int, processes: Processes, report: Callable[[str], None]) -> bool:
    """Whether to multiply in bfloat16, the same in all processes; `width` is the network's, `report` takes a line that says why."""
    products = processes.agree(compare_products(device, width))
    report(
        f"matrices are multiplied in {'bfloat16, which' if products.bfloat16_pays else 'float32: bfloat16'} "
        f"takes {products.bfloat16_share:.1f} times as long as float32 here"
    )
    return products.bfloat16_pays


def warn_of_slow_bfloat16(device: torch.device, width: int, report: Callable[[str], None]) -> None:
    """For a run that goes on in bfloat16, whatever it costs, since its bits depend on it."""
    products = compare_products(device, width)
    if not products.bfloat16_pays:
        report(
            f"this run began in bfloat16 and goes on in it, although that takes {products.bfloat16_share:.1f} times as long as "
            "float32 here; a new one by --precision float32 would be faster"
        )


@functools.cache
def compare_products(device: torch.device, width: int) -> Products:
    """Time both, once a process; a GPU is asked instead, since it says truly whether it has the instructions."""
    if device.type == "cuda":
        return Products(0.5 if torch.cuda.is_bf16_supported(including_emulation=False) else 2.0)
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    factors = {dtype: _factors(width, dtype) for dtype in (torch.float32, torch.bfloat16)}
    seconds = dict.fromkeys(factors, float("inf"))
    for _ in range(NUM_ROUNDS):  # by turns, and the least of each: others may be busy on this machine
        for dtype in factors:
            seconds[dtype] = min(seconds[dtype], _seconds(factors[dtype]))
    return Products(seconds[torch.bfloat16] / seconds[torch.float32])


def _factors(width: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What a block multiplies, rows (N, C) by a matrix (C, 4C), and what Muon does, a batch of matrices (B, C, C)."""
    rows, matrix = torch.ones(NUM_ROWS, width, dtype=dtype), torch.ones(4 * width, width, dtype=dtype)
    matrices = torch.ones(NUM_MATRICES, width, width, dtype=dtype)
    return [(rows, matrix.mT), (matrices, matrices.mT)]


def _seconds(factors: list[tuple[Tensor, Tensor]]) -> float:
    begin = time.perf_counter()
    for a, b in factors:
        torch.matmul(a, b)
    return time.perf_counter() - begin
