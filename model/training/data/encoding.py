"""Token ids of a text that comes in pieces, the same as of the whole. Knows neither documents nor files."""

import re

from model.bpe import BPETokenizer
from model.text_cuts import PART, PLACE
from model.tokenizer import PLAIN_TEXT, Reading, Tokenizer

BLANK = re.compile(r"\s")
LONGEST_WORD = 1 << 22  # characters without a place to cut: they are held in memory


class PieceEncoder:
    """Encodes what can no longer change by what follows, and holds the rest back.

    GPT-2's own tokenizer is known to cut a text before certain blanks, whatever stands around them. Other tokenizers are not: some
    put a space before a text or change it as a whole. Their texts are held back to the end. A word is cut where it is longer than
    any is.
    """

    def __init__(self, tokenizer: Tokenizer, reading: Reading = PLAIN_TEXT) -> None:
        self._tokenizer, self._reading = tokenizer, reading
        # Tokens that were added may have a blank within, before which nothing is to be cut; merged ones are written without.
        added = tokenizer.vocab if reading.parse_special else ()
        self._cuts = isinstance(tokenizer, BPETokenizer) and not any(BLANK.search(token) for token in added)
        self._held, self._size, self._enough = [""], 0, PART

    def feed(self, piece: str) -> list[int]:
        """The ids that a further piece makes certain."""
        self._held.append(piece)
        self._size += len(piece)
        if not self._cuts or self._size < self._enough:
            return []
        text = "".join(self._held)
        place = _last_place(text) or (len(text) if len(text) >= LONGEST_WORD else 0)
        self._hold(text[place:])
        return self._tokenizer.encode(text[:place], self._reading) if place else []

    def finish(self) -> list[int]:
        """The ids of what is held back, at the text's end."""
        text = "".join(self._held)
        self._hold("")
        return self._tokenizer.encode(text, self._reading) if text else []

    def _hold(self, text: str) -> None:
        self._held, self._size = [text], len(text)
        self._enough = PART + 2 * len(text)  # a long word is not searched again for each piece of it


def _last_place(text: str) -> int:
    """The last place where the text may be cut, 0 if there is none."""
    size = 64
    while size < 2 * len(text):
        if places := [found.start() for found in PLACE.finditer(text, max(0, len(text) - size))]:
            return places[-1]
        size *= 4
    return 0
