"""How a batch's chunks become passes: rows side by side, their query tiles, and what is wanted after which row. Plain values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from model.batch import Chunk, Draw, ForwardBatch, Scores
from model.cuda.records import MAX_IDS
from model.cuda.tiles import QUERY_TILE


class WantedDraw(NamedTuple):
    """Draw `number` of chunk number `chunk`, where it takes place: after row `row` of its pass, `length` tokens into the slot.

    `most` tokens are drawn in further steps of the launch, or one where the chunk does not go on.
    """

    chunk: int
    number: int
    row: int
    slot: int
    length: int
    draw: Draw
    most: int


class WantedScore(NamedTuple):
    """The log-probability of a token after row `row` of its pass, and the `top_n` likeliest beside it."""

    chunk: int
    row: int
    token_id: int
    top_n: int


@dataclass(slots=True)
class Pass:
    """Rows that run together. `ends` are the last rows of chunks of which nothing else would tell that they went wrong."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    tile_rows: list[int] = field(default_factory=list)
    tile_sizes: list[int] = field(default_factory=list)
    draws: list[WantedDraw] = field(default_factory=list)
    scores: list[WantedScore] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)  # (chunk, row)

    def add(self, number: int, chunk: Chunk, first: int, num: int) -> None:
        """Take in `num` of a chunk's rows, from row `first` on."""
        slot, start, token_ids, draws, scores = chunk
        row, end = len(self.token_ids), first + num
        if len(token_ids) == 1 == len(draws) and scores is None:  # it decodes, as most do
            self._add_row(number, chunk, row)
            return
        self.token_ids += token_ids[first:end]
        self.positions += range(start + first, start + end)
        self.slots += [slot] * num
        for offset in range(0, num, QUERY_TILE):
            self.tile_rows.append(row + offset)
            self.tile_sizes.append(min(QUERY_TILE, num - offset))
        for i, draw in enumerate(draws):
            if first <= draw.row < end:
                most = draw.max_new if chunk.goes_on else 1
                self.draws.append(WantedDraw(number, i, row + draw.row - first, slot, start + draw.row + 1, draw, most))
        if scores is not None:
            for i, token_id in enumerate(scores.token_ids, start=scores.first_row):
                if first <= i < end:
                    self.scores.append(WantedScore(number, row + i - first, token_id, scores.top_n))
        if not draws and end == len(token_ids):
            self.ends.append((number, row + num - 1))

    def _add_row(self, number: int, chunk: Chunk, row: int) -> None:
        slot, start, (token_id,), (draw,), _ = chunk
        self.token_ids.append(token_id)
        self.positions.append(start)
        self.slots.append(slot)
        self.tile_rows.append(row)
        self.tile_sizes.append(1)
        self.draws.append(WantedDraw(number, 0, row, slot, start + 1, draw, draw.max_new))


def plan_passes(chunks: Sequence[Chunk], max_rows: int) -> list[Pass]:
    """Passes of at most `max_rows` rows: a chunk that does not fit goes on in the next."""
    passes: list[Pass] = []
    for number, chunk in enumerate(chunks):
        first = 0
        while first < len(chunk.token_ids):
            if not passes or len(passes[-1].token_ids) == max_rows:
                passes.append(Pass())
            num = min(max_rows - len(passes[-1].token_ids), len(chunk.token_ids) - first)
            passes[-1].add(number, chunk, first, num)
            first += num
    return passes


def check(batch: ForwardBatch, num_slots: int, max_positions: int, vocab_size: int) -> None:
    """Raise IndexError for what the model does not hold: on a device it would be written beyond the end of memory."""
    for chunk in batch.chunks:
        slot, start, token_ids, draws, scores = chunk
        end = start + len(token_ids)
        if not 0 <= slot < num_slots:
            raise IndexError(f"slot {slot} of {num_slots}")
        if not (token_ids and start >= 0 and end <= max_positions):
            raise IndexError(f"positions {start} to {end} of {max_positions}")
        if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise IndexError(f"a token id is outside the vocabulary of {vocab_size}")
        for draw in draws:
            _check_draw(draw, len(token_ids), vocab_size)
        if batch.num_steps > 1 and chunk.goes_on and end + min(batch.num_steps, draws[0].max_new) - 1 > max_positions:
            raise IndexError(f"{batch.num_steps} steps from position {end} on of {max_positions}")
        if scores is not None:
            _check_scores(scores, len(token_ids), vocab_size)


def _check_draw(draw: Draw, num_rows: int, vocab_size: int) -> None:
    if not 0 <= draw.row < num_rows:
        raise IndexError(f"a draw after row {draw.row} of {num_rows}")
    if draw.banned_ids and not 0 <= min(draw.banned_ids) <= max(draw.banned_ids) < vocab_size:
        raise IndexError(f"a draw bans a token outside the vocabulary of {vocab_size}")
    if any(not 0 <= token_id < vocab_size for token_id, _ in draw.params.logit_bias):
        raise IndexError(f"a draw biases a token outside the vocabulary of {vocab_size}")
    if draw.mask is not None and len(draw.mask.bits) != -(-vocab_size // 8):
        raise IndexError(f"a mask of {len(draw.mask.bits)} bytes for a vocabulary of {vocab_size}")


def _check_scores(scores: Scores, num_rows: int, vocab_size: int) -> None:
    if not 0 <= scores.first_row <= num_rows - len(scores.token_ids):
        raise IndexError(f"scores from row {scores.first_row} on of {num_rows} rows")
    if scores.token_ids and not 0 <= min(scores.token_ids) <= max(scores.token_ids) < vocab_size:
        raise IndexError(f"a scored token id is outside the vocabulary of {vocab_size}")


def has_record(draw: Draw) -> bool:
    """Whether a record can say all that a draw asks for; what it cannot, `model.sampler` draws from the same logits."""
    fits = len(draw.banned_ids) <= MAX_IDS and len(draw.end_ids) <= MAX_IDS
    return fits and not (draw.top_n or draw.mask or draw.params.logit_bias)


def can_go_on(chunks: Sequence[Chunk], num_steps: int, max_steps: int, max_rows: int, max_draws: int) -> bool:
    """Whether the device can run several steps of these by itself: in one pass, in whose draws a record says all that goes on."""
    if num_steps > max_steps or sum(len(chunk.draws) for chunk in chunks) > max_draws:
        return False
    if sum(len(chunk.token_ids) for chunk in chunks) > max_rows:
        return False
    return all(has_record(chunk.draws[0]) for chunk in chunks if chunk.goes_on)
