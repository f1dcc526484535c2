"""Logits to tokens, row by row: penalties, temperature, filters and one draw. Knows rows and their parameters, not sequences.

Every operation works along a row alone and leaves the bits of a row that does not ask for it as they are, so that a token
never depends on what else is in the batch. Shapes: B rows, S of them sampled (the others are greedy), V vocabulary, N values.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model.batch import Draw, SampledToken
from model.filters import min_p, top_k, top_p, typical_p
from model.philox import uniform
from model.upload import Handle, Upload

MAX_TOP_K = 2**31  # more than any vocabulary; a client may send any number

Value = TypeVar("Value")


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


class SamplingPlan:
    """What a step's draws ask for, staged in the step's upload."""

    def __init__(self, draws: Sequence[Draw], upload: Upload) -> None:
        params = [draw.params for draw in draws]
        sampled = _at_least_two([row for row, p in enumerate(params) if not p.greedy])
        self.sampled = upload.ints(sampled)
        self.temperatures = upload.floats(params[row].temperature for row in sampled)
        self.uniforms = upload.floats(uniform(params[row].seed, draws[row].position) for row in sampled)
        self.bias = _entries(upload, [(row, i, value) for row, p in enumerate(params) for i, value in p.logit_bias])
        self.banned = _entries(upload, [(row, i, 0.0) for row, draw in enumerate(draws) for i in draw.banned_ids])
        self.prompt = _entries(upload, [(row, i, 1.0) for row, draw in enumerate(draws) for i in draw.prompt_ids])
        self.generated = _entries(upload, [(row, i, 1.0) for row, draw in enumerate(draws) for i in draw.generated_ids])
        penalised = params if any(p.needs_history for p in params) else []
        self.repetition = upload.floats(p.repetition_penalty for p in penalised)
        self.frequency = upload.floats(p.frequency_penalty for p in penalised)
        self.presence = upload.floats(p.presence_penalty for p in penalised)
        rows = [params[row] for row in sampled]
        largest = max((p.top_k for p in rows), default=0)
        self.filters = [
            RowFilter(apply, upload.ints(i for i, _ in pairs), upload.floats(value for _, value in pairs))
            for apply, asking in (
                (partial(top_k, largest=largest), [(i, float(min(p.top_k, MAX_TOP_K))) for i, p in enumerate(rows) if p.top_k > 0]),
                (top_p, [(i, p.top_p) for i, p in enumerate(rows) if p.top_p < 1]),
                (min_p, [(i, p.min_p) for i, p in enumerate(rows) if p.min_p > 0]),
                (typical_p, [(i, p.typical_p) for i, p in enumerate(rows) if p.typical_p < 1]),
            )
            if (pairs := _at_least_two(asking))
        ]


class Sampler:
    """Draws one token a row."""

    def draw(self, logits: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """Token ids and log-probabilities of float32 logits (B, V), as float64 (2, B); the plan's upload has been sent."""
        adjusted = self.adjust(logits, plan, upload)
        token_ids = adjusted.argmax(dim=-1)  # (B,)
        nothing_to_draw = torch.zeros_like(token_ids, dtype=torch.bool)  # (B,)
        if plan.sampled:
            probabilities = self.probabilities(adjusted, plan, upload)  # (S, V)
            token_ids[upload[plan.sampled]] = _inverse_cdf(probabilities, upload[plan.uniforms])
            nothing_to_draw[upload[plan.sampled]] = probabilities[:, 0].isnan()  # a row of the softmax is NaN all over or nowhere
        # Not logits - logsumexp: on several threads torch adds up a single row of 32,768 values or more in pieces.
        logprobs = _aligned(logits).log_softmax(dim=-1).gather(-1, token_ids[:, None])[:, 0]
        return torch.stack([token_ids.double(), logprobs.masked_fill(nothing_to_draw, torch.nan).double()])

    def adjust(self, logits: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """Logit bias, then the penalties, then the ban on tokens that may not come yet: (B, V)."""
        if not (plan.bias.rows or plan.repetition or plan.banned.rows):
            return logits
        logits = logits.clone()
        if plan.bias.rows:
            rows, ids, values = (upload[handle] for handle in plan.bias)
            logits.index_put_((rows, ids), values.float(), accumulate=True)
        if plan.repetition:
            # Extreme penalties overflow; an infinite logit has no log-probability.
            logits = _penalise(logits, plan, upload).clamp(-1e30, 1e30)
        if plan.banned.rows:
            # The value is made on the device: a number from the host would be waited for.
            logits.index_put_((upload[plan.banned.rows], upload[plan.banned.ids]), logits.new_full((), -torch.inf))
        return logits

    def probabilities(self, adjusted: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
        """What the sampled rows of the adjusted logits (B, V) are drawn from, after temperature and filters: float64 (S, V)."""
        logits = adjusted[upload[plan.sampled]].double() / upload[plan.temperatures][:, None]
        for apply, rows, values in plan.filters:
            logits[upload[rows]] = apply(logits[upload[rows]], upload[values][:, None])
        return logits.softmax(dim=-1)


def to_tokens(drawn: Tensor) -> tuple[SampledToken, ...]:
    """What `Sampler.draw` returned, on the host: the step's one wait for the device."""
    token_ids, logprobs = drawn.tolist()
    return tuple(SampledToken(int(token_id), logprob) for token_id, logprob in zip(token_ids, logprobs, strict=True))


def _aligned(logits: Tensor) -> Tensor:
    """Rows that begin at multiples of 32 bytes: CUDA's softmax adds up a row in an order that depends on where it begins."""
    return F.pad(logits, (0, -logits.shape[-1] % 8), value=-torch.inf) if logits.is_cuda else logits


def _at_least_two(values: list[Value]) -> list[Value]:
    """A single value twice: torch sums and scans a lone row in another order, which on a GPU is not even a fixed one."""
    return values * 2 if len(values) == 1 else values


def _entries(upload: Upload, entries: Iterable[tuple[int, int, float]]) -> Entries:
    rows, ids, values = zip(*entries, strict=True) if entries else ((), (), ())
    return Entries(upload.ints(rows), upload.ints(ids), upload.floats(values))


def _penalise(logits: Tensor, plan: SamplingPlan, upload: Upload) -> Tensor:
    """Repetition penalty on all seen tokens (Keskar et al. 2019, section 4.1), frequency and presence on generated ones alone."""
    prompt, generated = (_counts(logits, entries, upload) for entries in (plan.prompt, plan.generated))
    repetition, frequency, presence = (
        upload[handle].float()[:, None] for handle in (plan.repetition, plan.frequency, plan.presence)
    )
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(prompt + generated > 0, repeated, logits)
    return logits - frequency * generated - presence * (generated > 0)


def _counts(logits: Tensor, entries: Entries, upload: Upload) -> Tensor:
    """How often each token id stands in the entries of each row: (B, V)."""
    counts = torch.zeros_like(logits)
    rows, ids, ones = (upload[handle] for handle in entries)
    return counts.index_put_((rows, ids), ones.float(), accumulate=True)


def _inverse_cdf(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds u times the total: rows (S, V) and u (S,) to ids (S,).

    A row of NaN gives the last token, as any id has to be one that the vocabulary holds.
    """
    cumulative = probabilities.cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    # Rounding must not carry the target up to the total, beyond which there is no token.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=cumulative.shape[-1] - 1)
