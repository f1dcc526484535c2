"""Which parts of a text are held out for validation: stretches spread over all of it, of whole documents where these are short.

A function of the text alone, so that the same text is parted alike. Knows characters, not tokens.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from model.text_cuts import PLACE
from model.training.data.corpus import Part

# Characters of a stretch: at least a window or so, if so much is held out at all, and at most what gives many stretches.
SHORT, LONG = 1 << 11, 1 << 14
SHORTEST = 16
STRETCHES = 16  # as many before they become longer than SHORT
CUTS = 4  # of a document that is longer than a stretch, into a stretch's length: so nearly as much is held out as was asked for


class HeldOut:
    """A text of `num_chars` is divided into equal sections; of each a stretch is held out that begins at a place drawn for it."""

    def __init__(self, num_chars: int, fraction: float) -> None:
        wanted = num_chars * fraction
        self._num = max(1, min(STRETCHES, int(wanted / SHORT)), math.ceil(wanted / LONG))
        self._section = num_chars / self._num
        self._stretch = wanted / self._num
        # Of a document that stays whole: no stretch lies between the middles of two such. Pieces of a word are of no use.
        self.longest = max(SHORTEST, int(self._stretch)) if wanted else LONG

    @property
    def cut(self) -> int:
        """Characters of a piece of a longer document."""
        return self.longest // CUTS

    def holds(self, begin: int, end: int) -> bool:
        """Whether a document or a piece of one is held out: its middle decides."""
        middle = (begin + end) / 2
        number = min(int(middle / self._section), self._num - 1)
        draw = hashlib.blake2b(str(number).encode(), key=b"held out", digest_size=8).digest()
        offset = int.from_bytes(draw) / (1 << 64) * (self._section - self._stretch)
        start = number * self._section + offset
        return start <= middle < start + self._stretch


def pieces(parts: Iterable[Part], longest: int, cut: int) -> Iterator[Part]:
    """Documents of at most `longest` characters whole, others in pieces of about `cut`; together they are the documents."""
    held, begins = "", True
    for part in chain(parts, [Part(True, "")]):
        if part.begins:
            if held:
                yield Part(begins, held)
            held, begins = "", True
        held += part.text
        if len(held) > longest:
            stops = [0, *_borders(held, cut)]
            for start, stop in pairwise(stops):
                yield Part(begins, held[start:stop])
                begins = False
            held = held[stops[-1] :]


def _borders(text: str, cut: int) -> Iterator[int]:
    """Where to cut a text, but for its last one or two pieces: behind a paragraph or a line, before a word, or anywhere."""
    position = 0
    while len(text) - position > 2 * cut:
        first, last = position + cut // 2, position + 3 * cut // 2
        if (paragraph := text.rfind("\n\n", first, last)) >= 0:
            position = paragraph + 2
        elif (line := text.rfind("\n", first, last)) >= 0:
            position = line + 1
        else:
            word = PLACE.search(text, first + 1, last)
            position = word.start() if word else last
        yield position
