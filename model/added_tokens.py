"""Tokens that are found in a text before anything else is done to it, as the `tokenizers` library finds them."""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass, replace
from itertools import groupby, takewhile

from model.text_cuts import PART


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that was added to a vocabulary; the fields are those of `tokenizer.json`.

    One that is `normalized` is looked for after the text's normalizer, and so after all those that are not.
    """

    id: int
    content: str
    single_word: bool = False  # found between no letters alone
    lstrip: bool = False  # takes the blanks before it
    rstrip: bool = False
    normalized: bool = False
    special: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether it is its own letters and nothing else."""
        return not (self.single_word or self.lstrip or self.rstrip)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def with_ids(tokens: Iterable[AddedToken], vocab: dict[str, int]) -> list[AddedToken]:
    """The tokens with the ids that the library gives them one after the other: the vocabulary's, else the next free one."""
    placed: dict[str, AddedToken] = {}
    for token in tokens:
        known = vocab.get(token.content)
        if known is None and token.content in placed:
            known = placed[token.content].id
        if known is None:
            known = max(len(vocab), 1 + max((other.id for other in placed.values()), default=-1))
        placed[token.content] = replace(token, id=known)
    return sorted(placed.values(), key=lambda token: token.id)


class TextSplitter:
    """Parts a text into added tokens and what lies between them.

    Of tokens that begin at the same place the longest is taken. Those that are not normalized are found first, the others in what
    is left: without a normalizer that is the one difference between the two.
    """

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self._ids = {token.content: token.id for token in tokens}
        self._longest = max(map(len, self._ids), default=0)
        first, second = ({token.content for token in tokens if token.normalized is kind} for kind in (False, True))
        self._patterns = [_any_of(contents) for contents in (first, second) if contents]

    def split(self, text: str) -> list[str | int]:
        """The ids of the tokens found, and between them the other text; no empty one."""
        pieces: list[str | int] = [text] if text else []
        for pattern in self._patterns:
            pieces = list(self._split_by(pattern, pieces))
        return pieces

    def _split_by(self, pattern: re.Pattern[str], pieces: Iterable[str | int]) -> Iterator[str | int]:
        for piece in pieces:
            if isinstance(piece, int):
                yield piece
                continue
            start = 0
            for match in self._matches(pattern, piece):
                if match.start() > start:
                    yield piece[start : match.start()]
                yield self._ids[match.group()]
                start = match.end()
            if start < len(piece):
                yield piece[start:]

    def _matches(self, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
        """All of them in order; looked for a part of the text at a time, since the expression lets nobody else run."""
        position = 0
        while position < len(text):
            last = position + PART
            match = pattern.search(text, position, last + self._longest)
            if match is not None and match.start() < last:  # so that all of the longest that may begin there was in sight
                yield match
                position = match.end()
            else:
                position = last


def _any_of(contents: Set[str]) -> re.Pattern[str]:
    """What matches the longest of them, beginnings in common written once: a hundred tokens are as quickly looked for as one."""
    return re.compile(_alternatives(sorted(contents)))


def _alternatives(contents: Iterable[str]) -> str:
    """Of contents in order, so that the first and the last of a group have no more in common than all."""
    alternatives = []
    for _, group in groupby(contents, key=lambda content: content[0]):
        alike = list(group)
        prefix = "".join(char for char, other in takewhile(lambda pair: pair[0] == pair[1], zip(alike[0], alike[-1], strict=False)))
        rest = [content[len(prefix) :] for content in alike]
        longer = [content for content in rest if content]
        behind = f"(?:{_alternatives(longer)}){'' if len(longer) == len(rest) else '?'}" if longer else ""
        alternatives.append(re.escape(prefix) + behind)
    return "|".join(alternatives)
