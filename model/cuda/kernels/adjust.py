"""Penalties and bans on the logits of the draws that ask for them: `model.sampler.Sampler.adjust` without a count a token.

A program looks at a block of a sequence's tokens and compares it with all of them: a token is penalised by the program that has
its first occurrence. Counts are whole numbers and every logit is computed by one program, in float32 and the sampler's order, with
nothing fused: its bits are the sampler's. Logits that no penalty touches are not clamped: beyond the bounds they can only be
infinite or of a network that no longer computes anything.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results
from model.cuda.kernels.record import (
    BANNED,
    FREQUENCY,
    LENGTH,
    NUM_BANNED,
    NUM_LEFT,
    NUM_PROMPT,
    PRESENCE,
    RECORD_SIZE,
    REPETITION,
    SLOT,
    fraction,
    fraction_of,
    ids_of,
    penalises,
    penalises_twin,
)
from model.cuda.records import Field

BLOCK = 64  # of a sequence's tokens: 64 x 64 comparisons are 16 a thread of 8 warps, which its registers hold
LARGEST = tl.constexpr(1e30)  # extreme penalties overflow; an infinite logit has no log-probability


@triton.jit
def _occurrences(
    tokens: tl.tensor, positions: tl.tensor, history: tl.tensor, length: tl.tensor, num_prompt: tl.tensor, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Of each token (BLOCK,), whether it stands at an earlier position too, and how often behind the prompt."""
    repeats = tl.zeros((BLOCK,), tl.int32)
    generated = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, length, BLOCK):
        others = start + tl.arange(0, BLOCK)
        equal = tokens[:, None] == tl.load(history + others, mask=others < length, other=-1).to(tl.int32)[None, :]
        repeats += tl.sum((equal & (others[None, :] < positions[:, None])).to(tl.int32), 1)
        generated += tl.sum((equal & (others[None, :] >= num_prompt)).to(tl.int32), 1)
    return repeats > 0, generated


@triton.jit
def _penalised(raw: tl.tensor, generated: tl.tensor, record: tl.tensor) -> tl.tensor:
    """The logits (BLOCK,) of tokens that have come, of which each has been generated so many times."""
    repetition = fraction(record, REPETITION).to(tl.float32)
    frequency = fraction(record, FREQUENCY).to(tl.float32)
    presence = fraction(record, PRESENCE).to(tl.float32)
    # A plain division of float32 is approximate in Triton.
    repeated = tl.where(raw > 0, tl.div_rn(raw, tl.zeros_like(raw) + repetition), raw * repetition)
    logits = repeated - frequency * generated.to(tl.float32) - presence * (generated > 0).to(tl.float32)
    # Comparisons, not minimum and maximum: these lose what is no number.
    logits = tl.where(logits > LARGEST, LARGEST, logits)
    return tl.where(logits < -LARGEST, -LARGEST, logits)


@triton.jit
def _adjust(
    logits: tl.tensor,
    saved: tl.tensor,
    history: tl.tensor,
    draws: tl.tensor,
    V: tl.constexpr,
    N_POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    wait_for_results(EARLY)
    draw, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    record = draws + draw * RECORD_SIZE
    if tl.load(record + NUM_LEFT) == 0:
        return
    logits += draw * V
    banned = ids_of(record, BANNED, NUM_BANNED)  # (MAX_IDS,)
    if block == 0:
        tl.store(logits + banned, -float("inf"), mask=banned >= 0)
    length = tl.load(record + LENGTH).to(tl.int32)
    if (block * BLOCK < length) & penalises(record):
        history += tl.load(record + SLOT) * N_POSITIONS
        positions = block * BLOCK + tl.arange(0, BLOCK)
        is_there = positions < length
        tokens = tl.load(history + positions, mask=is_there, other=-1).to(tl.int32)
        num_prompt = tl.load(record + NUM_PROMPT).to(tl.int32)
        repeats, generated = _occurrences(tokens, positions, history, length, num_prompt, BLOCK)
        # Another program may be banning a token just now: it stays banned, and what would be saved of it nobody reads.
        is_banned = tl.max((tokens[:, None] == banned[None, :]).to(tl.int32), 1) > 0
        wanted = is_there & ~repeats & ~is_banned
        raw = tl.load(logits + tokens, mask=wanted, other=0.0)
        tl.store(saved + draw * N_POSITIONS + positions, raw, mask=wanted)
        tl.store(logits + tokens, _penalised(raw, generated, record), mask=wanted)


def adjust(logits: Tensor, saved: Tensor, history: Tensor, draws: Tensor, early: bool = False) -> None:
    """Penalise and ban in place, in float32 logits (B, V), what the records `draws` (B, SIZE) ask for.

    `history` int64 (S + 1, n_positions) has the slots' tokens. Where a row penalises, `saved` float32 (B, n_positions) gets the
    logits of the tokens that have come as the head left them, each at its first position; banned tokens are left out.
    """
    (num_draws, vocab_size), n_positions = logits.shape, history.shape[1]
    grid = (triton.cdiv(n_positions, BLOCK), num_draws)
    constants = {"V": vocab_size, "N_POSITIONS": n_positions, "BLOCK": BLOCK}
    _adjust[grid](logits, saved, history, draws, **constants, num_warps=8, enable_fp_fusion=False, EARLY=early, launch_pdl=early)


def adjust_twin(logits: Tensor, saved: Tensor, history: Tensor, draws: Tensor) -> None:
    for row, record in enumerate(draws):
        if record[Field.NUM_LEFT] == 0:
            continue
        banned = record[Field.BANNED :][: int(record[Field.NUM_BANNED])]
        if penalises_twin(record):
            _penalise_twin(logits[row], saved[row], history[int(record[Field.SLOT])], record, banned.tolist())
        logits[row, banned] = -torch.inf


def _penalise_twin(logits: Tensor, saved: Tensor, history: Tensor, record: Tensor, banned: list[int]) -> None:
    tokens = history[: int(record[Field.LENGTH])].tolist()
    generated = tokens[int(record[Field.NUM_PROMPT]) :]
    repetition, frequency, presence = (
        torch.tensor(fraction_of(record, field)).float() for field in (Field.REPETITION, Field.FREQUENCY, Field.PRESENCE)
    )
    for position, token in enumerate(tokens):
        if token in tokens[:position] or token in banned:
            continue
        raw, count = logits[token].clone(), generated.count(token)
        saved[position] = raw
        repeated = raw / repetition if raw > 0 else raw * repetition
        logits[token] = (repeated - frequency * count - presence * (count > 0)).clamp(-1e30, 1e30)
