"""The filters that cut off a distribution's tail, on the draws that ask for them: `model.filters` without a sort.

Each keeps the tokens of least cost until their weights reach a target. The cost is the logit's place from above, or for typical_p
the distance of the surprise from the entropy; the weight is 1 for top_k, else the probability, not yet divided by the sum of all.
A pass over the row adds up the weights of 8 ranges of costs, and the range in which the target is reached is the next pass's.
In each of the first ranges weights fall by e^2, so that few of them matter; the next are cut from the costs' bits, ordered as
integers, down to a single cost. Among tokens of that very cost the order is that of the ids. Costs of typical_p keep all bits of
float64: equal logits have equal costs, and rounding to fewer bits would make others equal.

One program a row, of a fixed number of warps, adds up in an order that depends on the vocabulary's size alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model import filters as reference
from model.cuda.kernels.early import wait_for_results
from model.cuda.kernels.record import (
    MIN_P,
    NUM_LEFT,
    RECORD_SIZE,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    TYPICAL_P,
    fraction,
    fraction_of,
)
from model.cuda.records import Field

BLOCK = tl.constexpr(512)  # logits at a time: with 8 ranges of float64 they are 16 registers a thread of 16 warps
SCANNED = tl.constexpr(2048)  # the same where no ranges are added up: fewer turns
NUM_WARPS = 16
DIGITS = tl.constexpr(8)  # ranges of a pass: three bits
FIRST_WIDTH = tl.constexpr(2.0)  # of the first pass's ranges
LARGEST_INT64 = tl.constexpr(2**63 - 1)


@triton.jit
def _block(row: tl.tensor, start: tl.tensor, V: tl.constexpr, SIZE: tl.constexpr = BLOCK) -> tuple[tl.tensor, tl.tensor]:
    """Logits start, start + 1, ... of a row, those behind its end -inf, and which of them may still be drawn: 2 x (SIZE,)."""
    ids = start + tl.arange(0, SIZE)
    logits = tl.load(row + ids, mask=ids < V, other=-float("inf"))
    return logits, logits > -float("inf")


@triton.jit
def _cost(logits: tl.tensor, temperature: tl.tensor, expected: tl.tensor, TYPICAL: tl.constexpr) -> tl.tensor:
    """What tokens are kept in rising order of, int64.

    float32's bits, made to rise as the logits fall: dividing by the temperature leaves their order. For typical_p float64's bits of
    the distance between a logit and `expected`, both divided by the temperature.
    """
    if TYPICAL:
        return tl.abs(logits.to(tl.float64) / temperature - expected).to(tl.int64, bitcast=True)
    bits = tl.where(logits == 0, 0.0, logits).to(tl.int32, bitcast=True)  # -0 and 0 are equal
    return -tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)


@triton.jit
def _weight(logits: tl.tensor, temperature: tl.tensor, largest: tl.tensor, COUNT: tl.constexpr) -> tl.tensor:
    """float64 of the logits; `largest` is that of the row, divided by the temperature."""
    if COUNT:
        return tl.zeros_like(logits).to(tl.float64) + 1.0
    return tl.exp(logits.to(tl.float64) / temperature - largest)


@triton.jit
def _largest(row: tl.tensor, V: tl.constexpr) -> tl.tensor:
    """The row's largest logit; what is no number is passed over."""
    largest = tl.full((SCANNED,), -float("inf"), tl.float32)
    for start in tl.range(0, V, SCANNED, num_stages=3):
        logits, _ = _block(row, start, V, SCANNED)
        largest = tl.where(logits > largest, logits, largest)
    return tl.max(largest, 0)


@triton.jit
def _first_digit(
    logits: tl.tensor, temperature: tl.tensor, largest: tl.tensor, expected: tl.tensor, TYPICAL: tl.constexpr
) -> tl.tensor:
    """Into which of the first pass's ranges the costs fall: it rises with them."""
    scaled = logits.to(tl.float64) / temperature
    distance = tl.abs(scaled - expected) if TYPICAL else largest - scaled
    # Where one is no number the search only has to end.
    return tl.minimum(tl.maximum(distance / FIRST_WIDTH, 0.0), DIGITS - 1.0).to(tl.int32)


@triton.jit
def _bounds(
    row: tl.tensor,
    digit: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    temperature: tl.tensor,
    largest: tl.tensor,
    expected: tl.tensor,
    IS_FIRST: tl.constexpr,
    TYPICAL: tl.constexpr,
    V: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The least and the greatest of the row's costs in a range: first..last, or `digit` of the first pass's."""
    least = tl.full((SCANNED,), LARGEST_INT64, tl.int64)
    greatest = tl.full((SCANNED,), -LARGEST_INT64, tl.int64)
    for start in tl.range(0, V, SCANNED, num_stages=3):
        logits, is_left = _block(row, start, V, SCANNED)
        cost = _cost(logits, temperature, expected, TYPICAL)
        if IS_FIRST:
            within = is_left & (_first_digit(logits, temperature, largest, expected, TYPICAL) == digit)
        else:
            within = is_left & (cost >= first) & (cost <= last)
        least = tl.where(within & (cost < least), cost, least)
        greatest = tl.where(within & (cost > greatest), cost, greatest)
    return tl.min(least, 0), tl.max(greatest, 0)


@triton.jit
def _up_to_each_digit(
    row: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    shift: tl.tensor,
    temperature: tl.tensor,
    largest: tl.tensor,
    expected: tl.tensor,
    IS_FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    TYPICAL: tl.constexpr,
    V: tl.constexpr,
) -> tl.tensor:
    """The weights of the costs up to the end of each range: (DIGITS,).

    Of the first pass's ranges, else from `first` on in ranges of 2^shift, the last of which holds `last`.
    """
    digits = tl.arange(0, DIGITS)
    sums = tl.zeros((DIGITS, BLOCK), tl.float64)  # added up at the end: within a pass no thread waits for others to add
    for start in tl.range(0, V, BLOCK, num_stages=4):
        logits, is_left = _block(row, start, V)
        if IS_FIRST:
            within, digit = is_left, _first_digit(logits, temperature, largest, expected, TYPICAL)
        else:
            cost = _cost(logits, temperature, expected, TYPICAL)
            within, digit = is_left & (cost >= first) & (cost <= last), ((cost - first) >> shift).to(tl.int32)
        if tl.max(within.to(tl.int32), 0) > 0:  # after some passes most blocks have none
            weight = tl.where(within, _weight(logits, temperature, largest, COUNT), 0.0)
            sums += tl.where(digit[None, :] <= digits[:, None], weight[None, :], 0.0)
    return tl.sum(sums, 1)


@triton.jit
def _boundary(
    row: tl.tensor,
    quota: tl.tensor,
    temperature: tl.tensor,
    largest: tl.tensor,
    expected: tl.tensor,
    COUNT: tl.constexpr,
    TYPICAL: tl.constexpr,
    V: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The cost at which the weights reach the target, the weights of all lesser costs, and the target.

    `quota` is the target itself where weights are counts, else its part of them all, which the first pass adds up.
    """
    digits, nought = tl.arange(0, DIGITS), tl.full((), 0, tl.int64)
    sums = _up_to_each_digit(row, nought, nought, nought, temperature, largest, expected, True, COUNT, TYPICAL, V)
    total = tl.sum(tl.where(digits == DIGITS - 1, sums, 0.0), 0)
    target = quota if COUNT else quota * total
    # Rounding must not carry the target beyond the last range, nor into one that holds nothing.
    target = tl.minimum(target, total)
    digit = tl.minimum(tl.sum((sums < target).to(tl.int64), 0), DIGITS - 1)
    before = tl.where(digit == 0, 0.0, tl.sum(tl.where(digits == digit - 1, sums, 0.0), 0))
    first, last = _bounds(row, digit, nought, nought, temperature, largest, expected, True, TYPICAL, V)
    while first < last:
        shift = tl.full((), 0, tl.int64)
        while ((last - first) >> shift) >= DIGITS:
            shift += 1
        sums = before + _up_to_each_digit(row, first, last, shift, temperature, largest, expected, False, COUNT, TYPICAL, V)
        # Rounding must not carry the target beyond the last range.
        digit = tl.minimum(tl.sum((sums < target).to(tl.int64), 0), (last - first) >> shift)
        before = tl.where(digit == 0, before, tl.sum(tl.where(digits == digit - 1, sums, 0.0), 0))
        first += digit << shift
        last = tl.minimum(last, first + (tl.full((), 1, tl.int64) << shift) - 1)
        first, last = _bounds(row, digit, first, last, temperature, largest, expected, False, TYPICAL, V)
    return first, before, target


@triton.jit
def _keep(
    row: tl.tensor,
    quota: tl.tensor,
    temperature: tl.tensor,
    largest: tl.tensor,
    expected: tl.tensor,
    COUNT: tl.constexpr,
    TYPICAL: tl.constexpr,
    V: tl.constexpr,
) -> None:
    """Drop the tokens before which, in rising order of cost, the weights reach the target; where they are counted, never equals."""
    boundary, before, target = _boundary(row, quota, temperature, largest, expected, COUNT, TYPICAL, V)
    for start in tl.range(0, V, SCANNED, num_stages=3):
        logits, is_left = _block(row, start, V, SCANNED)
        cost = _cost(logits, temperature, expected, TYPICAL)
        dropped = is_left & (cost > boundary)
        if not COUNT:
            is_equal = is_left & (cost == boundary)
            if tl.max(is_equal.to(tl.int32), 0) > 0:
                weight = tl.where(is_equal, _weight(logits, temperature, largest, COUNT), 0.0)
                dropped |= is_equal & (before + (tl.cumsum(weight, 0) - weight) >= target)
                before += tl.sum(weight, 0)
        tl.store(row + start + tl.arange(0, SCANNED), -float("inf"), mask=dropped)
    tl.debug_barrier()  # others may read what was dropped


@triton.jit
def _drop_below(row: tl.tensor, least: tl.tensor, temperature: tl.tensor, V: tl.constexpr) -> None:
    """Drop the tokens whose logit, divided by the temperature, is less."""
    for start in tl.range(0, V, SCANNED, num_stages=3):
        logits, is_left = _block(row, start, V, SCANNED)
        dropped = is_left & (logits.to(tl.float64) / temperature < least)
        tl.store(row + start + tl.arange(0, SCANNED), -float("inf"), mask=dropped)
    tl.debug_barrier()


@triton.jit
def _expected(row: tl.tensor, temperature: tl.tensor, largest: tl.tensor, V: tl.constexpr) -> tl.tensor:
    """The mean of the logits divided by the temperature, under their own distribution: there the surprise is the entropy."""
    total = tl.zeros((BLOCK,), tl.float64)
    moment = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(0, V, BLOCK, num_stages=4):
        logits, is_left = _block(row, start, V)
        below = tl.where(is_left, logits.to(tl.float64) / temperature - largest, 0.0)
        weight = tl.where(is_left, tl.exp(below), 0.0)
        total += weight
        moment += weight * below
    return largest + tl.sum(moment, 0) / tl.sum(total, 0)


@triton.jit
def _filters(logits: tl.tensor, draws: tl.tensor, V: tl.constexpr, EARLY: tl.constexpr) -> None:
    wait_for_results(EARLY)
    draw = tl.program_id(0).to(tl.int64)
    record = draws + draw * RECORD_SIZE
    temperature = fraction(record, TEMPERATURE)
    k, p = tl.load(record + TOP_K), fraction(record, TOP_P)
    least_p, typical_p = fraction(record, MIN_P), fraction(record, TYPICAL_P)
    if (tl.load(record + NUM_LEFT) == 0) | (temperature == 0) | ((k == 0) & (p >= 1) & (least_p == 0) & (typical_p >= 1)):
        return
    row = logits + draw * V
    largest = _largest(row, V).to(tl.float64) / temperature
    if (k > 0) & (k < V):
        _keep(row, k.to(tl.float64), temperature, largest, largest, True, False, V)
    if p < 1:
        _keep(row, p, temperature, largest, largest, False, False, V)
    if least_p > 0:
        _drop_below(row, largest + tl.log(least_p), temperature, V)
    if typical_p < 1:
        _keep(row, typical_p, temperature, largest, _expected(row, temperature, largest, V), False, True, V)


def filters(logits: Tensor, draws: Tensor, early: bool = False) -> None:
    """Make what top_k, top_p, min_p and typical_p of the records `draws` (B, SIZE) drop of float32 logits (B, V) -inf, in place."""
    num_draws, vocab_size = logits.shape
    _filters[num_draws,](logits, draws, V=vocab_size, num_warps=NUM_WARPS, EARLY=early, launch_pdl=early)


def filters_twin(logits: Tensor, draws: Tensor) -> None:
    for row, record in enumerate(draws):
        temperature = fraction_of(record, Field.TEMPERATURE)
        if record[Field.NUM_LEFT] == 0 or temperature == 0:
            continue
        left = logits[row : row + 1].double() / temperature  # (1, V)
        fields = Field.TOP_K, Field.TOP_P, Field.MIN_P, Field.TYPICAL_P
        k, top_p, min_p, typical_p = (_value_twin(record, field) for field in fields)
        if k > 0:
            left = reference.top_k(left, k, int(k))
        if top_p < 1:
            left = reference.top_p(left, top_p)
        if min_p > 0:
            left = reference.min_p(left, min_p)
        if typical_p < 1:
            left = reference.typical_p(left, typical_p)
        logits[row, left[0] == -torch.inf] = -torch.inf


def _value_twin(record: Tensor, field: Field) -> Tensor:
    """float64 (1, 1)"""
    value = record[field : field + 1, None]
    return value.double() if field < Field.TEMPERATURE else value.view(torch.float64)
