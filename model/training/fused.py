"""Training operations that PyTorch does slowly on a CPU, written so that `torch.compile` fuses what lies between matrix products.

Each computes what its plain counterpart computes: attention, GELU, and the output head with its cross-entropy. Measured on two
cores with AMX, 10 M parameters, windows of 256: 12,000 tokens/s against 8,700 of the plain operations in bfloat16.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from model.training.data.examples import IGNORED

# Rows of logits at a time: with V = 8192 in bfloat16 they just stay in the cache. Not compiled, they are also held as float32.
CHUNK_ROWS, PLAIN_CHUNK_ROWS = 1024, 256


class FusedAttention:
    """Causal attention (an `Attention` of model.gpt2): PyTorch's flash forward pass, the backward pass by whole matrix products.

    PyTorch's own backward pass on a CPU takes three times as long. This is Dao et al. 2022, "FlashAttention", algorithm 4, in one
    tile: P = exp(S - lse), dV = Pᵀ dO, dS = P * (dO Vᵀ - rowsum(dO * O)), dQ = dS K, dK = dSᵀ Q. Takes and returns (B, T, H, D).
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))  # (B, H, T, D)
        y: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
        return y.transpose(-3, -2)  # (B, T, H, D)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        ctx.save_for_backward(q, k, v, y, lse)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, y, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        positions, scale = torch.arange(q.shape[-2], device=q.device), 1 / math.sqrt(q.shape[-1])
        visible = positions[:, None] >= positions
        scores, dp = q @ k.mT, dy @ v.mT  # (B, H, T, T)
        p = torch.where(visible, torch.exp(scores.float() * scale - lse[..., None]), 0.0)
        ds = p * (dp.float() - (dy.float() * y.float()).sum(-1, keepdim=True)) * scale
        p, ds = p.to(q.dtype), ds.to(q.dtype)
        return ds @ k, ds.mT @ q, p.mT @ dy


class FusedGELU(nn.Module):
    """gelu(u) = u * sigmoid(2 sqrt(2/pi) (u + 0.044715 u³)): the tanh form, for 1 + tanh(z) = 2 sigmoid(2z), in one exponential.

    Where no gradients are wanted nothing is compiled either, and PyTorch's own is the faster one.
    """

    def forward(self, u: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.gelu(u, approximate="tanh")
        return _GELU.apply(u)  # type: ignore[no-any-return, no-untyped-call]


_SLOPE, _CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        x = u.float()
        return (x / (1 + torch.exp(-_SLOPE * x * (1 + _CUBIC * x * x)))).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors  # type: ignore[attr-defined]
        x: Tensor = u.float()
        square = x * x
        s = 1 / (1 + torch.exp(-_SLOPE * x * (1 + _CUBIC * square)))
        return (dy.float() * (s + x * s * (1 - s) * _SLOPE * (1 + 3 * _CUBIC * square))).to(u.dtype)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool = True) -> Tensor:
    """Sum over rows of -log softmax(hidden weightᵀ)[target], never holding all logits: hidden (N, C), weight (V, C), targets (N,).

    Rows whose target is IGNORED count nothing. The gradients are made in the forward pass, while a chunk's logits are in the cache.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, compiled)  # type: ignore[no-any-return, no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, compiled: bool) -> Tensor:
        rows_at_a_time, chunk = (CHUNK_ROWS, _compiled_chunk()) if compiled else (PLAIN_CHUNK_ROWS, _plain_chunk)
        head, dhidden = weight.to(hidden.dtype), torch.empty_like(hidden)
        dweight = torch.zeros_like(weight) if weight.requires_grad else None  # LoRA leaves it as it is
        loss = torch.zeros((), device=hidden.device)
        for begin in range(0, len(hidden), rows_at_a_time):
            rows = slice(begin, begin + rows_at_a_time)
            chunk_loss, dlogits = chunk(hidden[rows] @ head.t(), targets[rows])
            loss += chunk_loss
            torch.mm(dlogits, head, out=dhidden[rows])
            if dweight is not None:
                dweight += dlogits.t() @ hidden[rows]
        ctx.save_for_backward(*(gradient for gradient in (dhidden, dweight) if gradient is not None))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dloss: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        dhidden, *dweight = ctx.saved_tensors  # type: ignore[attr-defined]
        return dhidden * dloss.to(dhidden.dtype), dweight[0] * dloss if dweight else None, None, None


def _plain_chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As `_chunk`, by whole operations in place: the fewest copies of the logits where nothing fuses them."""
    log_p = F.log_softmax(logits, -1, dtype=torch.float32)
    loss = F.nll_loss(log_p, targets, reduction="sum", ignore_index=IGNORED)
    dlogits, counted = log_p.exp_(), targets != IGNORED
    dlogits[torch.arange(len(targets), device=targets.device), targets.clamp(min=0)] -= 1
    return loss, dlogits.mul_(counted[:, None]).to(logits.dtype)


@functools.cache
def _compiled_chunk() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Made when first needed: the compiler takes seconds to import."""
    return torch.compile(_chunk, dynamic=False)


def _chunk(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and d loss / d logits (N, V) of a chunk, softmax - one-hot."""
    x = logits.float()
    log_total = torch.logsumexp(x, -1, keepdim=True)
    counted = (targets != IGNORED)[:, None].float()
    target = targets.clamp(min=0)[:, None]
    loss = ((log_total - x.gather(1, target)) * counted).sum()
    # Compared rather than scattered: fused into the one pass over the logits.
    one_hot = (torch.arange(x.shape[1], device=x.device) == target).float()
    return loss, ((torch.exp(x - log_total) - one_hot) * counted).to(logits.dtype)
