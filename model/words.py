"""Decoding of vocabularies of words, as WordPiece has them: where a space stands between two tokens and where none.

A text's own spaces are lost when it is cut into words. A reader wants one between two words, none beside Chinese and Japanese
characters and none before what closes: `Hello, world (yes)` and `你好，world`.
"""

import unicodedata
from collections.abc import Mapping

from model.tokenizer import IncrementalDecoder

# What BERT's tokenizer takes as a word by itself (its BertNormalizer), then kana, and the signs that are written among them.
UNSPACED = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2FA1F),
    (0xF900, 0xFAFF),
    (0x3000, 0x30FF),
    (0xFF00, 0xFFEF),
    (0x2E80, 0x2FDF),
)
CLOSING_SIGNS = frozenset(".,!?;:%…")


class WordDecoder(IncrementalDecoder):
    """`words` has each token's text and whether it begins a word; `last` is the character before the first token, if any."""

    def __init__(self, words: Mapping[int, tuple[str, bool]], last: str = "") -> None:
        self._words, self._last = words, last
        self._num_chars = 0

    def decode(self, token_id: int) -> str:
        self.offset = self._num_chars
        text, begins_word = self._words.get(token_id, ("", False))
        if not text:
            return ""
        if begins_word and self._last and _is_spaced(self._last, text[0]):
            text = " " + text
        self._last = text[-1]
        self._num_chars += len(text)
        return text

    def flush(self) -> str:
        self.offset = self._num_chars
        return ""


def _is_spaced(last: str, first: str) -> bool:
    if _is_unspaced(last) or _is_unspaced(first) or last.isspace() or first.isspace():
        return False
    return (
        first not in CLOSING_SIGNS
        and unicodedata.category(first) not in ("Pe", "Pf")
        and unicodedata.category(last) not in ("Ps", "Pi")
    )


def _is_unspaced(char: str) -> bool:
    code = ord(char)
    return code >= 0x2E80 and any(low <= code <= high for low, high in UNSPACED)
