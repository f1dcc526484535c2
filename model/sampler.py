"""Logits to tokens, row by row: penalties, temperature, filters and one draw. Knows rows and their parameters, not sequences.

Every operation works along a row alone and leaves the bits of a row that does not ask for it as they are, so that a token
never depends on what else is in the batch. Shapes: B rows, S of them sampled (the others are greedy), P of them penalised, V
vocabulary, N values.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Draw, SamplingParams
from model.filters import min_p, top_k, top_p, typical_p
from model.history import History
from model.masks import Masks
from model.philox import uniform
from model.top import TopPlan, with_top
from model.upload import Handle, Upload

MAX_TOP_K = 2**31  # more than any vocabulary; a client may send any number

Value = TypeVar("Value")


class DrawRow(NamedTuple):
    """A draw where it takes place: after the first `length` tokens of slot `slot`."""

    slot: int
    length: int
    draw: Draw


class Entries(NamedTuple):
    """Values of places (row, token id) in the logits: three handles of (N,)."""

    rows: Handle
    ids: Handle
    values: Handle


class RowFilter(NamedTuple):
    """A filter and the sampled rows that ask for it, with its parameter for each: handles of (N,)."""

    apply: Callable[[Tensor, Tensor], Tensor]
    rows: Handle
    values: Handle


class Penalties(NamedTuple):
    """The rows that penalise, where their tokens are, and how much each penalty weighs: handles of (P,)."""

    rows: Handle
    slots: Handle
    lengths: Handle
    num_prompts: Handle
    repetition: Handle
    frequency: Handle
    presence: Handle
    longest: int  # of the lengths


class SamplingPlan:
    """What the draws of a step, or of a part of it, ask for, staged in the step's upload."""

    def __init__(self, rows: Sequence[DrawRow], upload: Upload) -> None:
        draws = [row.draw for row in rows]
        params = [draw.params for draw in draws]
        sampled = _at_least_two([row for row, p in enumerate(params) if not p.greedy])
        self.sampled = upload.ints(sampled)
        self.temperatures = upload.floats(params[row].temperature for row in sampled)
        self.uniforms = upload.floats(uniform(params[row].seed, rows[row].length) for row in sampled)
        self.bias = _entries(upload, [(row, i, value) for row, p in enumerate(params) for i, value in p.logit_bias])
        self.banned = _entries(upload, [(row, i, 0.0) for row, draw in enumerate(draws) for i in draw.banned_ids])
        self.penalties = _penalties(upload, [(i, row) for i, row in enumerate(rows) if row.draw.params.penalises])
        self.masks = [draw.mask for draw in draws if draw.mask is not None]
        self.masked = upload.ints(row for row, draw in enumerate(draws) if draw.mask is not None)
        self.filters = _filters(upload, [params[row] for row in sampled])
        self.top = TopPlan.of([draw.top_n for draw in draws], upload)


class ScoringPlan:
    """The tokens, one a row, whose log-probabilities are asked for, and of how many others: staged in the step's upload."""

    def __init__(self, token_ids: Sequence[int], top_ns: Sequence[int], upload: Upload) -> None:
        self.token_ids = upload.ints(token_ids)
        self.top = TopPlan.of(top_ns, upload)


class Sampler:
    """Draws one token a row."""

    def __init__(self, history: History, device: torch.device) -> None:
        self._history, self._masks = history, Masks(device)

    def draw(self, logits: Tensor, logprobs: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """What becomes of float32 logits and their log-probabilities (B, V), as float64 (B, 3 + 2 N); the upload has been sent.

        A row has the token's id, its log-probability, whether nothing was left to be drawn, then the likeliest of `with_top`. Where
        something was computed that is no number, the log-probability is NaN.
        """
        adjusted = self.adjust(logits, plan, upload)
        token_ids = adjusted.argmax(dim=-1)  # (B,)
        nothing_left = adjusted.gather(-1, token_ids[:, None])[:, 0] == -torch.inf  # (B,)
        no_number = torch.zeros_like(nothing_left)  # (B,)
        if plan.sampled:
            probabilities = self.probabilities(adjusted, plan, upload)  # (S, V)
            token_ids[upload[plan.sampled]] = _inverse_cdf(probabilities, upload[plan.uniforms])
            no_number[upload[plan.sampled]] = probabilities[:, 0].isnan()  # a row of the softmax is NaN all over or nowhere
        drawn = logprobs.gather(-1, token_ids[:, None])[:, 0].masked_fill(no_number, torch.nan)  # (B,)
        told = torch.stack([token_ids.double(), drawn.double(), nothing_left.double()], dim=-1)  # (B, 3)
        return with_top(told, logprobs, plan.top, upload)

    def adjust(self, logits: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """Logit bias, then the penalties, then the ban on tokens that may not come: (B, V)."""
        if not (plan.bias.rows or plan.penalties.rows or plan.banned.rows or plan.masks):
            return logits
        logits = logits.clone()
        if plan.bias.rows:
            rows, ids, values = (upload[handle] for handle in plan.bias)
            logits.index_put_((rows, ids), values.float(), accumulate=True)
        if plan.penalties.rows:
            rows = upload[plan.penalties.rows]
            # Extreme penalties overflow; an infinite logit has no log-probability.
            logits[rows] = self._penalise(logits[rows], plan.penalties, upload).clamp(-1e30, 1e30)
        if plan.banned.rows:
            # The value is made on the device: a number from the host would be waited for.
            logits.index_put_((upload[plan.banned.rows], upload[plan.banned.ids]), logits.new_full((), -torch.inf))
        if plan.masks:
            rows = upload[plan.masked]
            forbidden = torch.stack([self._masks.forbidden(mask, logits.shape[-1]) for mask in plan.masks])  # (N, V)
            logits[rows] = logits[rows].masked_fill(forbidden, -torch.inf)
        return logits

    def probabilities(self, adjusted: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """What the sampled rows of the adjusted logits (B, V) are drawn from, after temperature and filters: float64 (S, V)."""
        logits = adjusted[upload[plan.sampled]].double() / upload[plan.temperatures][:, None]
        for apply, rows, values in plan.filters:
            logits[upload[rows]] = apply(logits[upload[rows]], upload[values][:, None])
        return logits.softmax(dim=-1)

    def _penalise(self, logits: Tensor, penalties: Penalties, upload: Upload) -> Tensor:
        """Repetition penalty on all seen tokens (Keskar et al. 2019, section 4.1), frequency and presence on generated ones."""
        slots, lengths, num_prompts = (upload[handle] for handle in penalties[1:4])
        seen, generated = self._history.counts(slots, lengths, num_prompts, penalties.longest, logits.shape[-1])  # 2 x (P, V)
        repetition, frequency, presence = (upload[handle].float()[:, None] for handle in penalties[4:7])
        repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(seen > 0, repeated, logits)
        return logits - frequency * generated - presence * (generated > 0)


def score(logprobs: Tensor, plan: ScoringPlan, upload: Upload) -> Tensor:
    """The plan's tokens' of log-probabilities float32 (B, V), then `with_top`'s likeliest: float64 (B, 1 + 2 N)."""
    return with_top(logprobs.gather(-1, upload[plan.token_ids][:, None]).double(), logprobs, plan.top, upload)


def log_softmax(logits: Tensor) -> Tensor:
    """The log-probabilities (B, V) of logits (B, V), a row's bits the same whatever the others.

    Not logits - logsumexp: on several threads torch adds up a single row of 32,768 values or more in pieces. CUDA's softmax adds up
    a row in an order that depends on where it begins: rows there are made to begin at multiples of 32 bytes.
    """
    if not logits.is_cuda:
        return logits.log_softmax(dim=-1)
    size = logits.shape[-1]
    return F.pad(logits, (0, -size % 8), value=-torch.inf).log_softmax(dim=-1)[:, :size]


def _at_least_two(values: list[Value]) -> list[Value]:
    """A single value twice: torch sums and scans a lone row in another order, which on a GPU is not even a fixed one."""
    return values * 2 if len(values) == 1 else values


def _entries(upload: Upload, entries: Iterable[tuple[int, int, float]]) -> Entries:
    rows, ids, values = zip(*entries, strict=True) if entries else ((), (), ())
    return Entries(upload.ints(rows), upload.ints(ids), upload.floats(values))


def _penalties(upload: Upload, rows: Sequence[tuple[int, DrawRow]]) -> Penalties:
    params = [row.draw.params for _, row in rows]
    return Penalties(
        upload.ints(i for i, _ in rows),
        upload.ints(row.slot for _, row in rows),
        upload.ints(row.length for _, row in rows),
        upload.ints(row.draw.num_prompt for _, row in rows),
        upload.floats(p.repetition_penalty for p in params),
        upload.floats(p.frequency_penalty for p in params),
        upload.floats(p.presence_penalty for p in params),
        max((row.length for _, row in rows), default=0),
    )


def _filters(upload: Upload, sampled: Sequence[SamplingParams]) -> list[RowFilter]:
    largest = max((p.top_k for p in sampled), default=0)
    asking: list[tuple[Callable[[Tensor, Tensor], Tensor], list[tuple[int, float]]]] = [
        (partial(top_k, largest=largest), [(i, float(min(p.top_k, MAX_TOP_K))) for i, p in enumerate(sampled) if p.top_k > 0]),
        (top_p, [(i, p.top_p) for i, p in enumerate(sampled) if p.top_p < 1]),
        (min_p, [(i, p.min_p) for i, p in enumerate(sampled) if p.min_p > 0]),
        (typical_p, [(i, p.typical_p) for i, p in enumerate(sampled) if p.typical_p < 1]),
    ]
    return [
        RowFilter(apply, upload.ints(i for i, _ in pairs), upload.floats(value for _, value in pairs))
        for apply, pairs in ((apply, _at_least_two(pairs)) for apply, pairs in asking)
        if pairs
    ]


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds u times the total: rows (S, V) and u (S,) to ids (S,).

    A row of NaN gives the last token, as any id has to be one that the vocabulary holds.
    """
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    # Rounding must not carry the target up to the total, beyond which there is no token.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[-1] - 1)
