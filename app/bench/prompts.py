"""Prompts of so many tokens, made of common words by a seed; exact where the server's /tokenize tells which words are tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.bench.dialects import Json
from app.bench.exchange import Endpoint, RequestFailed

# Each behind a space: most vocabularies have all of them as one token.
COMMON_WORDS = """
the of and to in was he that it his her with as had for she not at but be on they have him which said from all this by were when
we there been their one so an or no who them out would up my more if could then into about what time only some did like man your
little before its over now very than other old two down good made our after well great us should come can day where never such
how came here long through even back way again own being upon must too much think head might many most away know life under last
still off house go hand take first just eyes thought place face went night while room every say without world men might thing
went door young things put look through moment once far told heart new left always against found right same nothing enough took
let father mother name three half water side woman light end turned give better work people seen white felt set mind love money
black morning course son matter best home looked each word part gave find voice years another children round stood whole business
"""
MIN_WORDS = 8  # with fewer that are one token the prompts would not differ enough


@dataclass(frozen=True, slots=True)
class Range:
    """A number, or any from `low` to `high`, each as likely."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words to make prompts of, a token each if `is_exact`, else about so; and how many tokens the server adds to any text."""

    words: Sequence[str]
    num_added: int = 0
    is_exact: bool = False


async def fetch_vocabulary(endpoint: Endpoint) -> Vocabulary:
    """By `POST /tokenize` as TGI has it: those words that are one token each. Without it all words, inexactly."""
    words = list(dict.fromkeys(COMMON_WORDS.split()))
    try:
        spans = await endpoint.fetch("POST", "/tokenize", {"inputs": _text(words)})
        single = _single_tokens(words, spans)
        if len(single) < MIN_WORDS:
            return Vocabulary(words)
        probe = await endpoint.fetch("POST", "/tokenize", {"inputs": _text(single)})
        is_exact = _single_tokens(single, probe) == single
    except (RequestFailed, KeyError, TypeError):
        return Vocabulary(words)
    return Vocabulary(single, num_added=len(probe) - len(single), is_exact=True) if is_exact else Vocabulary(words)


def _single_tokens(words: Sequence[str], spans: Sequence[Json]) -> list[str]:
    """Those that one token covers in the words' text, with the space before them or without."""
    tokens = {(span["start"], span["stop"]) for span in spans}
    starts = {start for start, stop in tokens if start < stop}  # a token that the server adds covers nothing
    single, start = [], 0
    for word in words:
        stop = start + 1 + len(word)
        if (start, stop) in tokens or ((start + 1, stop) in tokens and start not in starts):
            single.append(word)
        start = stop
    return single


def make_prompts(vocabulary: Vocabulary, lengths: Sequence[int], seed: int, num_shared: int = 0) -> list[str]:
    """A text of each length in tokens, after `num_shared` tokens that are the same in all."""
    draw = random.Random(seed)
    shared = draw.choices(vocabulary.words, k=num_shared)
    return [_text(shared + draw.choices(vocabulary.words, k=max(1, length - vocabulary.num_added))) for length in lengths]


def draw_lengths(lengths: Range, num_requests: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randint(lengths.low, lengths.high) for _ in range(num_requests)]


def _text(words: Sequence[str]) -> str:
    return "".join(f" {word}" for word in words)
