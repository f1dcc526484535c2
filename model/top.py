"""The likeliest tokens of a row beside the one that was drawn or given, exactly ordered: equals by their ids."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.batch import Top
from model.upload import Handle, Upload


class TopPlan(NamedTuple):
    """The rows that ask, staged in the step's upload, and the most tokens that one of them asks for."""

    rows: Handle
    largest: int

    @staticmethod
    def of(top_ns: Sequence[int], upload: Upload) -> "TopPlan":
        return TopPlan(upload.ints(row for row, n in enumerate(top_ns) if n > 0), max(top_ns, default=0))


def with_top(told: Tensor, logprobs: Tensor, plan: TopPlan, upload: Upload) -> Tensor:
    """float64 (B, K) and behind it, where a row asks, the ids and the float32 `logprobs` (B, V) of the N likeliest: (B, K + 2 N).

    N is the plan's largest number, or V if that is less; rows that do not ask have zeros.
    """
    if not plan.rows:
        return told
    rows = upload[plan.rows]
    asking = logprobs[rows]  # (A, V)
    ids = likeliest(asking, min(plan.largest, logprobs.shape[-1]))  # (A, N)
    top = told.new_zeros(len(told), 2 * ids.shape[-1])
    top[rows] = torch.cat([ids.double(), asking.gather(-1, ids).double()], dim=-1)
    return torch.cat([told, top], dim=-1)


def likeliest(values: Tensor, n: int) -> Tensor:
    """Ids (A, n) of the n largest of float32 values (A, V), the largest first, among equals the lower id first.

    By integers that no two tokens share, since topk leaves the order of equals open: above, the value's bits, made to rise with it;
    below, what falls with the id.
    """
    bits = (values + 0.0).view(torch.int32)  # with no zero below another
    rising = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    falling = torch.arange(values.shape[-1] - 1, -1, -1, device=values.device)
    return ((rising << 32) + falling).topk(n, dim=-1).indices


def to_top(row: Sequence[float], n: int) -> Top:
    """The first n of what `with_top` has put behind a row, on the host."""
    num = len(row) // 2
    return tuple((int(token_id), logprob) for token_id, logprob in zip(row[:num], row[num:], strict=True))[:n]
