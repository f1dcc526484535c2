"""GPT-2's own tokenizer: byte-level BPE on tiktoken, and the bytes of every vocabulary that is written in its alphabet.

Knows nothing of a checkpoint's other files, nor of tokenizers that change a text before they cut it: model.library_tokenizer's.
"""

import codecs
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from model.added_tokens import AddedToken, TextSplitter
from model.input_files import shown
from model.text_cuts import PART, parts
from model.token_spans import TokenSpans, completed_characters
from model.tokenizer import (
    DEFAULT_READING,
    END_OF_TEXT,
    ByteDecoder,
    IncrementalDecoder,
    Reading,
    Tokenizer,
    TokenizerBroke,
    TokenizerError,
)
from model.vocabulary_files import read_vocab_and_merges

MAX_TOKEN_CHARS = 1024  # in which a merge is looked for; the longest token of GPT-2's vocabulary has 128
# How special tokens are called.
NAME = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
# GPT-2's splitting pattern (its release's encoder.py) in possessive form: it splits alike, and a million spaces cannot exhaust it.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in `vocab.json` and `merges.txt` (GPT-2's release, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class ByteLevelTokenizer(Tokenizer):
    """What all tokenizers have in common whose tokens are bytes, however they cut a text."""

    def __init__(
        self, vocab: dict[str, int], bytes_of_id: dict[int, bytes], added: Sequence[AddedToken], eos_token_id: int | None
    ) -> None:
        end = vocab.get(END_OF_TEXT)
        special = {token.id for token in added if token.special} | ({end} if end is not None else set())
        everything = vocab | {token.content: token.id for token in added}
        super().__init__(everything, frozenset(special), end if eos_token_id is None else eos_token_id)
        self._all_bytes = bytes_of_id | {token.id: token.content.encode() for token in added}
        self._bytes_of_id = {i: token for i, token in self._all_bytes.items() if i not in special}

    def decoder(self, previous: int | None = None, skip_special_tokens: bool = True) -> IncrementalDecoder:
        return ByteDecoder(self._bytes_of_id if skip_special_tokens else self._all_bytes)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        known = self._bytes_of_id if skip_special_tokens else self._all_bytes
        return b"".join([known.get(token_id, b"") for token_id in token_ids]).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes_of_id.get(token_id, b"")

    def is_special(self, token_id: int) -> bool:
        return token_id not in self._bytes_of_id

    def name(self, token_id: int) -> str:
        """Bytes that are no whole characters as `bytes:\\xe2`."""
        token = self._all_bytes.get(token_id)
        if token is None:
            return f"<|{token_id}|>"
        try:
            return token.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


class BPETokenizer(ByteLevelTokenizer):
    """GPT-2's: added tokens are found first, the text between them is cut by GPT-2's pattern and merged.

    `vocab` and `merges` are the contents of a checkpoint's two files. Byte-pair merging is that of Sennrich et al. 2016, on bytes
    as in Radford et al. 2019, section 2.2.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        added: Sequence[AddedToken] = (),
        eos_token_id: int | None = None,
    ) -> None:
        self.merges = list(merges)
        ranked = _tokens_by_rank(vocab, merges)
        if END_OF_TEXT in vocab and all(token.content != END_OF_TEXT for token in added):
            added = [*added, AddedToken(vocab[END_OF_TEXT], END_OF_TEXT)]
        self.added = list(added)
        bytes_of_rank = to_bytes(ranked)
        bytes_of_id = {vocab[token]: token_bytes for token, token_bytes in zip(ranked, bytes_of_rank, strict=True)}
        beyond = [token for token, token_id in vocab.items() if token_id not in bytes_of_id]
        check_made(beyond, vocab, added)
        check_made(beyond, vocab, added)
        bytes_of_id |= zip((vocab[token] for token in beyond), to_bytes(beyond), strict=True)
        super().__init__(vocab, bytes_of_id, added, eos_token_id)
        self.merges_in_one_way = len(ranked) == 256 + len(merges)  # of two ways to the same token tiktoken knows the first alone
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(bytes_of_rank)},
            special_tokens={},
        )
        # tiktoken's ids are merge ranks; a checkpoint may number its tokens otherwise (the end token first, say).
        self._id_of_rank = [vocab[token] for token in ranked]
        self._ids_are_ranks = self._id_of_rank == list(range(len(ranked)))
        self._splitter = TextSplitter(added)
        self._max_token_bytes = max(map(len, self._all_bytes.values()))  # 128 in GPT-2's own vocabulary
        self._num_bytes = np.zeros(self.vocab_size, dtype=np.int64)
        self._num_bytes[list(self._all_bytes)] = list(map(len, self._all_bytes.values()))

    @classmethod
    def from_files(cls, vocab_file: Path, merges_file: Path) -> "BPETokenizer":
        """Of `vocab.json` and `merges.txt` alone; raises TokenizerError naming the file that is unusable."""
        return cls(*read_vocab_and_merges(vocab_file, merges_file))

    def encode(self, text: str, reading: Reading = DEFAULT_READING) -> list[int]:
        pieces = self._splitter.split(text) if reading.parse_special else [text]
        if pieces == [text] and len(text) <= PART:
            return self._merge(text)
        ids: list[int] = []
        for some in self._ids_of(pieces):
            ids += some
        return ids

    def _ids_of(self, pieces: Iterable[str | int]) -> Iterator[Sequence[int]]:
        """Of added tokens one by one, of the text between them a part at a time."""
        for piece in pieces:
            if isinstance(piece, int):
                yield (piece,)
            else:
                yield from map(self._merge, parts(piece))

    def _merge(self, text: str) -> list[int]:
        try:
            ranks = self._encoding.encode_ordinary(text)
        except BaseException as error:  # a panic of Rust's is no Exception, and would pass by every handler
            raise TokenizerBroke.instead_of(error) from error
        return ranks if self._ids_are_ranks else [self._id_of_rank[rank] for rank in ranks]

    def spans(self, text: str, reading: Reading = DEFAULT_READING) -> TokenSpans:
        """The tokens' bytes are the text's, one token after the other."""
        pieces = self._splitter.split(text) if reading.parse_special else [text]
        none = np.zeros(0, np.uint32)
        ids = np.concatenate([none, *(np.array(some, dtype=np.uint32) for some in self._ids_of(pieces))])
        text = without_surrogates(text)
        completed = completed_characters(text)
        stops = completed[np.cumsum(self._num_bytes[ids])]
        starts = np.concatenate([completed[:1], stops])[:-1]
        return TokenSpans(text, ids, starts, stops)

    def least_tokens(self, text: str) -> int:
        return -(-len(text.encode()) // self._max_token_bytes)


def _tokens_by_rank(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """All tokens in the order in which merging prefers them: the 256 bytes in GPT-2's order, then each merge's product.

    Raises TokenizerError if a merge's parts are never made, or the vocabulary lacks one of the tokens.
    """
    ordered = dict.fromkeys(sorted(byte_alphabet().values()))
    for left, right in merges:
        for part in (left, right):
            if part not in ordered:
                raise TokenizerError(f"the merge {shown(left)} + {shown(right)} uses {shown(part)}, which no earlier merge makes")
        ordered.setdefault(left + right)
    if missing := [token for token in ordered if token not in vocab]:
        raise TokenizerError(f"the vocabulary lacks {len(missing)} of its own merges' tokens, the first is {shown(missing[0])}")
    return list(ordered)


def check_made(others: Iterable[str], vocab: Container[str], added: Sequence[AddedToken]) -> None:
    """Refuse a vocabulary with `others`, which no merge makes, if one of them is two of its tokens: there was a merge of the two.

    Such a token would never come of a text, and the model would read other tokens than it was trained on. But names such as `<pad>`
    or `[MASK]` are those of tokens that were meant to be added, and that some files list among the others alone.
    """
    names = {token.content for token in added}
    unmade = [token for token in others if token not in names and not NAME.fullmatch(token) and _is_two(token, vocab)]
    if unmade:
        raise TokenizerError(
            f"no merge makes {len(unmade)} of the vocabulary's tokens, the first is {shown(unmade[0])}: the merges are cut short, "
            "or are another vocabulary's; copy the files again"
        )


def _is_two(token: str, vocab: Container[str]) -> bool:
    return any(token[:i] in vocab and token[i:] in vocab for i in range(1, min(len(token), MAX_TOKEN_CHARS)))


def without_surrogates(text: str) -> str:
    """Halves of surrogate pairs, which UTF-8 has none of, as tiktoken reads them: pairs joined, U+FFFD for the others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def to_bytes(tokens: Sequence[str]) -> list[bytes]:
    """What tokens stand for in the byte alphabet; one with another character in it stands for itself."""
    alphabet = codecs.charmap_build("".join(char for _, char in sorted(byte_alphabet().items())))

    def to_bytes_or_itself(token: str) -> bytes:
        try:
            return codecs.charmap_encode(token, "strict", alphabet)[0]
        except UnicodeEncodeError:
            return token.encode()

    return list(map(to_bytes_or_itself, tokens))
