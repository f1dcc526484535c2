"""Draws as the device's records (`model.cuda.records`): what stays the same from step to step is packed once."""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.batch import Draw
from model.cuda.plan import WantedDraw, has_record
from model.cuda.records import MAX_IDS, SIZE, Field
from model.sampler import MAX_TOP_K

_WORDS = struct.Struct(f"<{Field.SEED}qQ{Field.TEMPERATURE - Field.TOP_K}q{Field.BANNED - Field.TEMPERATURE}d{2 * MAX_IDS}q")
_NOTHING = bytes(8 * SIZE)


class RecordPacker:
    """Packs records; remembers, for each slot, the last draw's."""

    def __init__(self, num_slots: int) -> None:
        self._last: list[tuple[Draw, bytes] | None] = [None] * num_slots

    def __call__(self, draws: Sequence[WantedDraw], num_steps: int, out: NDArray[np.int64]) -> list[int]:
        """Write the draws' records into the first rows of `out` (B, SIZE), and zeros behind them.

        Returns which of the draws have no record that could say all they ask for: they are told their row alone, so that its logits
        are there.
        """
        num, words = len(draws), [self._words(wanted.slot, wanted.draw) for wanted in draws]
        out[:num] = np.frombuffer(b"".join(words), np.int64).reshape(num, SIZE)
        out[num:] = 0
        _, _, rows, slots, lengths, _, most = zip(*draws, strict=True)
        out[:num, Field.ROW], out[:num, Field.SLOT], out[:num, Field.LENGTH] = rows, slots, lengths
        out[:num, Field.NUM_LEFT] *= np.minimum(most, num_steps)
        return [i for i, each in enumerate(words) if each is _NOTHING]

    def _words(self, slot: int, draw: Draw) -> bytes:
        """With a NUM_LEFT of 1, or of 0 where there is no record."""
        if (last := self._last[slot]) is not None and _is_alike(last[0], draw):
            return last[1]
        words = _pack(draw) if has_record(draw) else _NOTHING
        self._last[slot] = draw, words
        return words


def _is_alike(a: Draw, b: Draw) -> bool:
    """Whether all is the same that does not change from step to step; the engine hands over the same objects as long as it is."""
    return (
        a.params is b.params
        and a.end_ids == b.end_ids
        and a.banned_ids == b.banned_ids
        and a.num_prompt == b.num_prompt
        and a.mask is b.mask
        and a.top_n == b.top_n
    )


def _pack(draw: Draw) -> bytes:
    params, banned, ends = draw.params, draw.banned_ids, draw.end_ids
    return _WORDS.pack(
        *(0, 0, 0, 1, 0, draw.num_prompt),
        params.seed,
        *(min(params.top_k, MAX_TOP_K), len(banned), len(ends)),
        *(params.temperature, params.top_p, params.min_p, params.typical_p),
        *(params.repetition_penalty, params.frequency_penalty, params.presence_penalty),
        *_filled(banned),
        *_filled(ends),
    )


def _filled(ids: tuple[int, ...]) -> tuple[int, ...]:
    return ids + (0,) * (MAX_IDS - len(ids))
