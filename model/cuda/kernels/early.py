"""Programmatic dependent launch: a kernel starts while the one before it ends, and waits for its results only where it needs them.

A kernel that is launched `EARLY` waits before it reads or writes what another kernel writes or reads; only what no kernel writes,
as weights, and what no kernel of the same forward pass writes, as its positions, may be read before. It lets the next kernel start
when it has waited itself: so the one before it is over by then, and no more than two are ever under way. It takes compute
capability 9.0; Triton's interpreter does not know it.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

MIN_CAPABILITY = (9, 0)
LINE_BYTES = tl.constexpr(128)  # of the L2 cache


@triton.jit
def wait_for_results(EARLY: tl.constexpr) -> None:
    """Of the kernels before."""
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def fetch_weights(
    weight: tl.tensor,
    columns: tl.tensor,
    first: tl.tensor,
    LENGTH: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    """Ask for inputs first, first + 1, ..., LENGTH of them, of these columns of weight (N, K): into the L2 cache, while waiting."""
    if EARLY:
        LINE: tl.constexpr = LINE_BYTES * 8 // weight.dtype.element_ty.primitive_bitwidth
        NUM_LINES: tl.constexpr = triton.next_power_of_2(triton.cdiv(LENGTH, LINE))
        k = tl.minimum(first + tl.arange(0, NUM_LINES) * LINE, tl.minimum(first + LENGTH, K) - 1)
        places = weight + tl.minimum(columns, N - 1)[:, None] * K + k[None, :]
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [places.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
        )
