"""What a draw has to know of each part of its logits: the largest, where it first is, and the part's weight.

A part is a fixed number of tokens and one program's work, so that its bits depend on its own logits alone. Weights are float64, as
the sampler's.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.cuda.kernels.early import wait_for_results
from model.cuda.kernels.record import NUM_LEFT, RECORD_SIZE, TEMPERATURE, fraction, fraction_of
from model.cuda.records import Field

PART = 1024  # tokens: 50 programs a row for GPT-2's 50,257 tokens, so that three rows fill a card's 132 multiprocessors


@triton.jit
def _parts(
    maxima: tl.tensor,
    ids: tl.tensor,
    sums: tl.tensor,
    logits: tl.tensor,
    draws: tl.tensor,
    V: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    PART: tl.constexpr,
    EARLY: tl.constexpr,
) -> None:
    wait_for_results(EARLY)
    part, draw = tl.program_id(0), tl.program_id(1).to(tl.int64)
    record = draws + draw * RECORD_SIZE
    if tl.load(record + NUM_LEFT) == 0:
        return
    temperature = fraction(record, TEMPERATURE)
    index = part * PART + tl.arange(0, PART)
    values = tl.load(logits + draw * V + index, mask=index < V, other=-float("inf"))
    is_number = values == values
    maximum = tl.max(tl.where(is_number, values, -float("inf")), 0)
    weight = tl.full((), 0.0, tl.float64)
    if (temperature > 0) & (maximum > -float("inf")):
        weights = tl.exp((values.to(tl.float64) - maximum.to(tl.float64)) / temperature)
        weight = tl.sum(tl.where(is_number, weights, 0.0), 0)
    place = draw * NUM_PARTS + part
    tl.store(ids + place, tl.min(tl.where(values == maximum, index, V - 1), 0))
    tl.store(maxima + place, tl.where(tl.min(is_number.to(tl.int32), 0) > 0, maximum, float("nan")))
    tl.store(sums + place, weight)


def parts(maxima: Tensor, ids: Tensor, sums: Tensor, logits: Tensor, draws: Tensor, early: bool = False) -> None:
    """Of each part of float32 logits (B, V) its maximum, float32 (B, NP), that one's first id, int32 (B, NP), and its weight.

    The maximum is NaN where a logit of the part is, the weight, float64 (B, NP), the sum of exp((logit - maximum) / temperature) of
    a sampled row's numbers, 0 for a greedy row and for a part of which everything is -inf. Records `draws` (B, SIZE) that do
    nothing are passed over.
    """
    num_draws, vocab_size = logits.shape
    num_parts = triton.cdiv(vocab_size, PART)
    _parts[num_parts, num_draws](
        maxima, ids, sums, logits, draws, V=vocab_size, NUM_PARTS=num_parts, PART=PART, num_warps=4, EARLY=early, launch_pdl=early
    )


def parts_twin(maxima: Tensor, ids: Tensor, sums: Tensor, logits: Tensor, draws: Tensor) -> None:
    for row, record in enumerate(draws):
        if record[Field.NUM_LEFT] == 0:
            continue
        temperature = fraction_of(record, Field.TEMPERATURE)
        for part in range(maxima.shape[1]):
            values = logits[row, part * PART : (part + 1) * PART]
            numbers = values.masked_fill(values.isnan(), -torch.inf)
            maximum = numbers.max()
            maxima[row, part] = torch.nan if values.isnan().any() else maximum
            ids[row, part] = part * PART + int((numbers == maximum).int().argmax())
            is_weighed = temperature > 0 and maximum > -torch.inf
            sums[row, part] = ((numbers.double() - maximum.double()) / temperature).exp().sum() if is_weighed else 0.0
