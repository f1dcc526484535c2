"""Tokenizers that GPT-2's release does not have, through the `tokenizers` library: prefix spaces, BOS, normalizers, WordPiece.

The library cuts the text; it is decoded here, token by token. The library is imported when such a tokenizer is made.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from model.added_tokens import AddedToken
from model.bpe import ByteLevelTokenizer, byte_alphabet, to_bytes
from model.input_files import shown
from model.token_spans import TokenSpans
from model.tokenizer import DEFAULT_READING, IncrementalDecoder, Reading, Tokenizer, TokenizerBroke, TokenizerError
from model.vocabulary_files import Json
from model.words import WordDecoder

NOWHERE = (0, 0)  # the place of a token that is no part of a text


class LibraryEncoder:
    """A text's ids and spans by the `tokenizers` library, from what a `tokenizer.json` says."""

    def __init__(self, contents: Json) -> None:
        self._contents = contents
        self._parsing = self._make(contents)

    @cached_property
    def _plain(self) -> Any:
        """The same without added tokens: the library could leave the special ones out, but not the others."""
        return self._make(self._contents | {"added_tokens": []})

    @staticmethod
    def _make(contents: Json) -> Any:
        from tokenizers import Tokenizer as LibraryTokenizer

        try:
            return LibraryTokenizer.from_str(json.dumps(contents))
        except Exception as error:  # the library's errors have no type of their own
            raise TokenizerError(f"the `tokenizers` library cannot use it: {error!s:.200}") from error

    def _encode(self, text: str, reading: Reading) -> Any:
        chosen = self._parsing if reading.parse_special else self._plain
        # As a batch of one: the library lets go of the interpreter for batches alone, and a megabyte takes a second.
        try:
            return chosen.encode_batch([text], add_special_tokens=reading.add_special_tokens)[0]
        except BaseException as error:  # a panic of Rust's is no Exception, and would pass by every handler
            raise TokenizerBroke.instead_of(error) from error

    def ids(self, text: str, reading: Reading) -> list[int]:
        ids: list[int] = self._encode(text, reading).ids
        return ids

    def spans(self, text: str, reading: Reading) -> TokenSpans:
        """The library gives a character to each token that has a part of it; here the last of them has it."""
        encoding = self._encode(text, reading)
        ids = np.array(encoding.ids, dtype=np.uint32)
        # One by one: a list of all would keep every other thread from the interpreter while it is made.
        places = chain.from_iterable(encoding.token_to_chars(i) or NOWHERE for i in range(len(ids)))
        starts, stops = np.fromiter(places, np.int64, 2 * len(ids)).reshape(-1, 2).T
        # What the post-processor puts around a text stands where the text before it ends.
        ends = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), stops]))[:-1]
        is_added = np.array(encoding.special_tokens_mask, dtype=np.bool_)
        starts, stops = np.where(is_added, ends, starts), np.where(is_added, ends, stops)
        begins = np.minimum.accumulate(np.minimum(starts, stops)[::-1])[::-1]
        stops = np.minimum(stops, np.concatenate([begins[1:], np.full(1, len(text), np.int64)]))
        return TokenSpans(text, ids, begins, stops)


class LibraryByteTokenizer(ByteLevelTokenizer):
    """Byte-level BPE with something that GPT-2's lacks."""

    def __init__(self, contents: Json, vocab: dict[str, int], added: Sequence[AddedToken], eos_token_id: int | None) -> None:
        super().__init__(vocab, dict(zip(vocab.values(), to_bytes(list(vocab)), strict=True)), added, eos_token_id)
        cuts_bytes = '"ByteLevel"' in json.dumps([contents["normalizer"], contents["pre_tokenizer"]])
        if cuts_bytes and (missing := [char for char in byte_alphabet().values() if char not in vocab]):
            raise TokenizerError(f"the vocabulary lacks {len(missing)} of the 256 bytes, the first is {missing[0]!r}")
        self._encoder = LibraryEncoder(contents)
        # What changes the text, or swallows some of it, makes any number of bytes one token or none.
        splits = contents["pre_tokenizer"]
        keeps_all = isinstance(splits, dict) and splits["type"] == "ByteLevel" and contents["normalizer"] is None
        is_exact = keeps_all and all(token.is_plain for token in added)
        self._max_token_bytes = max(map(len, self._all_bytes.values())) if is_exact else None

    def encode(self, text: str, reading: Reading = DEFAULT_READING) -> list[int]:
        return self._encoder.ids(text, reading)

    def spans(self, text: str, reading: Reading = DEFAULT_READING) -> TokenSpans:
        return self._encoder.spans(text, reading)

    def least_tokens(self, text: str) -> int:
        return 0 if self._max_token_bytes is None else -(-len(text.encode()) // self._max_token_bytes)


class WordPieceTokenizer(Tokenizer):
    """WordPiece (Schuster and Nakajima 2012, as in BERT): words, and parts of words behind a prefix such as `##`."""

    def __init__(self, contents: Json, vocab: dict[str, int], added: Sequence[AddedToken], eos_token_id: int | None) -> None:
        special = frozenset(token.id for token in added if token.special)
        super().__init__(vocab | {token.content: token.id for token in added}, special, eos_token_id)
        model = contents["model"]
        assert isinstance(model, dict)
        if (unknown := model.get("unk_token")) not in vocab:
            raise TokenizerError(f"the vocabulary lacks {shown(unknown)}, which stands for words that it does not hold")
        self._encoder = LibraryEncoder(contents)
        whole = {token.content for token in added}
        prefix = str(model.get("continuing_subword_prefix", "##"))
        self._names = {token_id: token for token, token_id in self.vocab.items()}
        self._all_words = {i: _word(token, "" if token in whole else prefix) for token, i in self.vocab.items()}
        self._words = {i: word for i, word in self._all_words.items() if i not in special}

    def encode(self, text: str, reading: Reading = DEFAULT_READING) -> list[int]:
        return self._encoder.ids(text, reading)

    def spans(self, text: str, reading: Reading = DEFAULT_READING) -> TokenSpans:
        return self._encoder.spans(text, reading)

    def least_tokens(self, text: str) -> int:
        """None: any number of blanks is no token."""
        return 0

    def decoder(self, previous: int | None = None, skip_special_tokens: bool = True) -> IncrementalDecoder:
        words = self._words if skip_special_tokens else self._all_words
        before, _ = ("", False) if previous is None else words.get(previous, ("", False))
        return WordDecoder(words, before[-1:])

    def token_bytes(self, token_id: int) -> bytes:
        return self._words.get(token_id, ("", False))[0].encode()

    def is_special(self, token_id: int) -> bool:
        return token_id not in self._words

    def name(self, token_id: int) -> str:
        """As the vocabulary has it, with the prefix: `##s` is another token than `s`."""
        return self._names.get(token_id, f"<|{token_id}|>")


def _word(token: str, prefix: str) -> tuple[str, bool]:
    """A token's text, and whether it begins a word."""
    if prefix and token.startswith(prefix) and len(token) > len(prefix):
        return token.removeprefix(prefix), False
    return token, True
