"""LayerNorm of the residual stream's rows, as the layers behind it multiply them: before qkv, before fc, and at the end.

A program a row, which it holds in registers. A row's bits follow its own values and width, which gives the number of warps.
"""

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

VALUES_A_WARP = 256  # 8 a thread: two loads of 16 bytes under way, beside as many of weights and bias
MAX_WARPS = 16


@triton.jit
def _norm(
    h: tl.tensor, x: tl.tensor, weight: tl.tensor, bias: tl.tensor, eps: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    is_c = c < C
    values = tl.load(x + row * C + c, mask=is_c, other=0.0)
    # Loaded before they are needed, beside the row.
    scale = tl.load(weight + c, mask=is_c, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=is_c, other=0.0).to(tl.float32)
    # The variance of distances from the mean, not of squares less the mean's: a few of GPT-2's channels are far larger than others.
    distance = tl.where(is_c, values - tl.sum(values, axis=0) / C, 0.0)
    rstd = tl.rsqrt(tl.sum(distance * distance, axis=0) / C + eps)
    tl.store(h + row * C + c, distance * rstd * scale + shift, mask=is_c)


def norm(h: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """h (R, C), of the layers' dtype, = LayerNorm(x) with weight and bias (C,); x (R, C) float32."""
    R, C = x.shape
    block = triton.next_power_of_2(C)
    num_warps = min(max(block // VALUES_A_WARP, 1), MAX_WARPS)
    _norm[(R,)](h, x, weight, bias, eps=eps, C=C, BLOCK=block, num_warps=num_warps)


def norm_twin(h: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    h.copy_(F.layer_norm(x.double(), x.shape[-1:], weight.double(), bias.double(), eps))
