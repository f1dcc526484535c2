"""The residual stream's rows with what the layer before adds to them, and their LayerNorm, as the layers behind it multiply them.

A program a row, which it holds in registers. A row's bits follow its own values and width, which gives the number of warps, and in
how many parts the layer before is summed.
"""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results

VALUES_A_WARP = 256  # 8 a thread: two loads of 16 bytes under way, beside as many of weights and bias
MAX_WARPS = 16


@triton.jit
def _norm(
    h: tl.tensor,
    x: tl.tensor,
    parts: tl.tensor,
    added: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    eps: tl.constexpr,
    C: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    is_c = c < C
    # Loaded before they are needed, beside the row.
    scale = tl.load(weight + c, mask=is_c, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=is_c, other=0.0).to(tl.float32)
    joins = tl.zeros((BLOCK,), tl.float32)
    if NUM_PARTS:
        joins += tl.load(added + c, mask=is_c, other=0.0).to(tl.float32)
    wait_for_results(EARLY)
    values = tl.load(x + row * C + c, mask=is_c, other=0.0)
    if NUM_PARTS:
        for part in tl.static_range(NUM_PARTS):
            joins += tl.load(parts + (row * NUM_PARTS + part) * C + c, mask=is_c, other=0.0)
        values += joins
        tl.store(x + row * C + c, values, mask=is_c)
    # The variance of distances from the mean, not of squares less the mean's: a few of GPT-2's channels are far larger than others.
    distance = tl.where(is_c, values - tl.sum(values, axis=0) / C, 0.0)
    rstd = tl.rsqrt(tl.sum(distance * distance, axis=0) / C + eps)
    tl.store(h + row * C + c, distance * rstd * scale + shift, mask=is_c)


def norm(
    h: Tensor, x: Tensor, parts: Tensor | None, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, early: bool = False
) -> None:
    """x (R, C) float32 += added + the sum of parts; h (R, C), of the layers' dtype, = LayerNorm(x) with weight and bias (C,).

    `parts` (R, S, C) float32 are of `residual`, `added` (C,) is its layer's bias; None where nothing joins x.
    """
    R, C = x.shape
    block = triton.next_power_of_2(C)
    num_warps = min(max(block // VALUES_A_WARP, 1), MAX_WARPS)
    if parts is None or added is None:
        num, parts, added = 0, x, x  # of which nothing is read
    else:
        num = parts.shape[1]
    _norm[(R,)](
        h,
        x,
        parts,
        added,
        weight,
        bias,
        eps=eps,
        C=C,
        NUM_PARTS=num,
        BLOCK=block,
        num_warps=num_warps,
        EARLY=early,
        launch_pdl=early,
    )


def norm_twin(h: Tensor, x: Tensor, parts: Tensor | None, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> None:
    if parts is not None and added is not None:
        x += parts.double().sum(dim=1) + added.double()
    h.copy_(F.layer_norm(x.double(), x.shape[-1:], weight.double(), bias.double(), eps))
