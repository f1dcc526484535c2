"""The token of each draw, its log-probability, and the step that follows: `model.sampler.Sampler.draw` from sums of parts.

One program a draw. Having drawn, it makes its draw's row of the next pass and carries the record on, so that steps follow one
another without the host. All is added up in orders that depend on the vocabulary's size alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results
from model.cuda.kernels.inverse_cdf import draw_token, uniform_number
from model.cuda.kernels.parts import PART
from model.cuda.kernels.record import (
    ENDS,
    LENGTH,
    NUM_ENDS,
    NUM_LEFT,
    RECORD_SIZE,
    ROW,
    SEED,
    SLOT,
    STEP,
    TEMPERATURE,
    fraction,
    fraction_of,
    ids_of,
    penalises,
    penalises_twin,
)
from model.cuda.records import Field, Status
from model.philox import uniform

DRAWN = tl.constexpr(int(Status.DRAWN))
NOT_FINITE = tl.constexpr(int(Status.NOT_FINITE))
NOTHING_LEFT = tl.constexpr(int(Status.NOTHING_LEFT))
ROW_FIELDS = ["token_ids", "positions", "slots", "tile_rows", "tile_sizes"]


@triton.jit
def _raw_logit(
    logits: tl.tensor,
    saved: tl.tensor,
    history: tl.tensor,
    token: tl.tensor,
    record: tl.tensor,
    N_POSITIONS: tl.constexpr,
    POSITIONS: tl.constexpr,
) -> tl.tensor:
    """The token's logit as the head left it: where a penalty has changed it, it is saved at the token's first position."""
    raw = tl.load(logits + token)
    if penalises(record):
        position = tl.arange(0, POSITIONS)
        is_there = position < tl.load(record + LENGTH)
        tokens = tl.load(history + tl.load(record + SLOT) * N_POSITIONS + position, mask=is_there, other=-1)
        first = tl.min(tl.where(tokens == token, position, POSITIONS), 0)
        if first < POSITIONS:
            raw = tl.load(saved + first)
    return raw


@triton.jit
def _greedy_token(maxima: tl.tensor, largest: tl.tensor, ids: tl.tensor, is_part: tl.tensor, V: tl.constexpr) -> tl.tensor:
    """The first of the largest: `maxima` (N,) of the row's parts, whose first ids are at `ids`."""
    first_ids = tl.load(ids + tl.arange(0, maxima.shape[0]), mask=is_part & (maxima == largest), other=V - 1)
    return tl.min(first_ids, 0)


@triton.jit
def _status(maxima: tl.tensor, largest: tl.tensor, log_sum: tl.tensor, logprob: tl.tensor) -> tl.tensor:
    is_number = (tl.max((maxima != maxima).to(tl.int32), 0) == 0) & (tl.abs(log_sum) < float("inf"))
    is_drawn = is_number & (tl.abs(logprob) < float("inf"))
    # A banned token may have a log-probability all the same, of its raw logit.
    return tl.where(is_number & (largest == -float("inf")), NOTHING_LEFT, tl.where(is_drawn, DRAWN, NOT_FINITE))


@triton.jit
def _next_row(
    token_ids: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    tile_rows: tl.tensor,
    tile_sizes: tl.tensor,
    draws: tl.tensor,
    draw: tl.tensor,
    token: tl.tensor,
    position: tl.tensor,
    slot: tl.tensor,
) -> None:
    """Row `draw` of the next pass, a tile of its own, is what the draw's record follows."""
    tl.store(token_ids + draw, token.to(tl.int32))
    tl.store(positions + draw, position.to(tl.int32))
    tl.store(slots + draw, slot.to(tl.int32))
    tl.store(tile_rows + draw, draw.to(tl.int32))
    tl.store(tile_sizes + draw, 1)
    tl.store(draws + draw * RECORD_SIZE + ROW, draw)


# One binary for every number of draws and of slots, wherever a row's fields begin.
@triton.jit(do_not_specialize=["num_draws", "scratch"], do_not_specialize_on_alignment=ROW_FIELDS)
def _choose(
    output: tl.tensor,
    token_ids: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    tile_rows: tl.tensor,
    tile_sizes: tl.tensor,
    draws: tl.tensor,
    logits: tl.tensor,
    saved: tl.tensor,
    history: tl.tensor,
    log_sums: tl.tensor,
    maxima: tl.tensor,
    ids: tl.tensor,
    sums: tl.tensor,
    num_draws: tl.tensor,
    scratch: tl.tensor,
    V: tl.constexpr,
    N_POSITIONS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
    PART: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    wait_for_results(EARLY)
    draw = tl.program_id(0).to(tl.int64)
    record = draws + draw * RECORD_SIZE
    num_left = tl.load(record + NUM_LEFT)
    if num_left == 0:
        _next_row(token_ids, positions, slots, tile_rows, tile_sizes, draws, draw, draw * 0, draw * 0, draw * 0 + scratch)
        return
    logits, ids, sums = logits + draw * V, ids + draw * NUM_PARTS, sums + draw * NUM_PARTS
    part = tl.arange(0, PARTS)
    is_part = part < NUM_PARTS
    part_maxima = tl.load(maxima + draw * NUM_PARTS + part, mask=is_part, other=-float("inf"))
    largest = tl.max(tl.where(part_maxima == part_maxima, part_maxima, -float("inf")), 0)
    slot, length, step = tl.load(record + SLOT), tl.load(record + LENGTH), tl.load(record + STEP)
    temperature = fraction(record, TEMPERATURE)
    if temperature > 0:
        part_sums = tl.load(sums + part, mask=is_part, other=0.0)
        number = uniform_number(tl.load(record + SEED), length)
        token = draw_token(logits, part_maxima, part_sums, largest.to(tl.float64), number, temperature, V, PART)
    else:
        token = _greedy_token(part_maxima, largest, ids, is_part, V)
    log_sum = tl.load(log_sums + draw)
    raw = _raw_logit(logits, saved + draw * N_POSITIONS, history, token, record, N_POSITIONS, POSITIONS)
    logprob = raw.to(tl.float64) - log_sum
    status = _status(part_maxima, largest, log_sum, logprob)
    has_ended = tl.max((ids_of(record, ENDS, NUM_ENDS) == token).to(tl.int32), 0) > 0
    tl.debug_barrier()  # all have read the record, which is written now

    is_drawn = status == DRAWN
    token = tl.where(is_drawn, token, 0)
    output += (step * 3) * num_draws + draw
    tl.store(output, token)
    tl.store(output + num_draws, tl.where(is_drawn, logprob, 0.0).to(tl.float32).to(tl.int32, bitcast=True))
    tl.store(output + 2 * num_draws, status)
    num_left = tl.where(has_ended | ~is_drawn, 0, num_left - 1)
    goes_on = num_left > 0
    tl.store(record + LENGTH, length + 1)
    tl.store(record + NUM_LEFT, num_left)
    tl.store(record + STEP, step + 1)
    position, slot = tl.where(goes_on, length, 0), tl.where(goes_on, slot, scratch)
    _next_row(token_ids, positions, slots, tile_rows, tile_sizes, draws, draw, tl.where(goes_on, token, 0), position, slot)


def choose(
    output: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    slots: Tensor,
    tile_rows: Tensor,
    tile_sizes: Tensor,
    draws: Tensor,
    logits: Tensor,
    saved: Tensor,
    history: Tensor,
    log_sums: Tensor,
    maxima: Tensor,
    ids: Tensor,
    sums: Tensor,
    early: bool = False,
) -> None:
    """Draw a token for each record of `draws` (B, SIZE) that does something, and carry all on for the next step.

    `logits` float32 (B, V), adjusted and filtered; `saved` (B, n_positions) and `history` (S + 1, n_positions) of `adjust`;
    `log_sums` float64 (B,) of the logits as the head left them; `maxima`, `ids` and `sums` (B, NP) of `parts`. `output` int32
    (steps, 3, B) gets at the record's step the token's id, its log-probability's float32 bits and its Status, token and
    log-probability 0 where it is not DRAWN.

    Row b of the next pass, in `token_ids`, `positions`, `slots`, `tile_rows` and `tile_sizes`, int32 (R,) with R >= B, is what
    draw b has drawn; that of a draw that has ended writes to the scratch slot.
    """
    (num_draws, vocab_size), (num_slots, n_positions) = logits.shape, history.shape
    num_parts = maxima.shape[1]
    _choose[num_draws,](
        output, token_ids, positions, slots, tile_rows, tile_sizes, draws, logits, saved, history, log_sums,
        maxima, ids, sums, num_draws, num_slots - 1, V=vocab_size, N_POSITIONS=n_positions,
        NUM_PARTS=num_parts, POSITIONS=triton.next_power_of_2(n_positions),
        PARTS=triton.next_power_of_2(num_parts), PART=PART, num_warps=4, EARLY=early, launch_pdl=early,
    )  # fmt: skip


def choose_twin(
    output: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    slots: Tensor,
    tile_rows: Tensor,
    tile_sizes: Tensor,
    draws: Tensor,
    logits: Tensor,
    saved: Tensor,
    history: Tensor,
    log_sums: Tensor,
    maxima: Tensor,
    ids: Tensor,
    sums: Tensor,
) -> None:
    for b, record in enumerate(draws):
        slot, length, num_left, step = (int(record[field]) for field in (Field.SLOT, Field.LENGTH, Field.NUM_LEFT, Field.STEP))
        token, goes_on = 0, False
        if num_left > 0:
            token = _token_twin(logits[b], record)
            raw = _raw_logit_twin(token, logits[b], saved[b], history[slot], record)
            logprob = raw - log_sums[b]
            status = _status_twin(logits[b], logprob)
            told = torch.tensor([token, logprob]).double() if status is Status.DRAWN else torch.zeros(2).double()
            output[step, 0, b], output[step, 1, b], output[step, 2, b] = told[0].int(), told[1].float().view(torch.int32), status
            ends = record[Field.ENDS :][: int(record[Field.NUM_ENDS])].tolist()
            goes_on = status is Status.DRAWN and token not in ends and num_left > 1
            record[Field.LENGTH], record[Field.STEP], record[Field.NUM_LEFT] = length + 1, step + 1, num_left - 1 if goes_on else 0
        record[Field.ROW] = b
        token_ids[b], positions[b], slots[b] = (token, length, slot) if goes_on else (0, 0, len(history) - 1)
        tile_rows[b], tile_sizes[b] = b, 1


def _token_twin(logits: Tensor, record: Tensor) -> int:
    temperature = fraction_of(record, Field.TEMPERATURE)
    if temperature == 0:
        return int(logits.argmax())
    weights = ((logits.double() - logits.double().max()) / temperature).exp()
    cumulative = weights.cumsum(0)
    total = cumulative[-1]
    number = uniform(int(record[Field.SEED]) % 2**64, int(record[Field.LENGTH]))
    target = torch.minimum(number * total, torch.nextafter(total, torch.zeros_like(total)))
    return int(torch.searchsorted(cumulative, target, right=True).clamp(max=len(logits) - 1))


def _raw_logit_twin(token: int, logits: Tensor, saved: Tensor, history: Tensor, record: Tensor) -> Tensor:
    tokens = history[: int(record[Field.LENGTH])].tolist()
    is_saved = penalises_twin(record) and token in tokens
    return (saved[tokens.index(token)] if is_saved else logits[token]).double()


def _status_twin(logits: Tensor, logprob: Tensor) -> Status:
    if (logits == -torch.inf).all() and not logprob.isnan():
        return Status.NOTHING_LEFT
    return Status.DRAWN if logprob.isfinite() and not logits.isnan().any() else Status.NOT_FINITE
