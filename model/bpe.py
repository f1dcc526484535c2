"""GPT-2's own tokenizer: byte-level BPE on tiktoken, and the bytes of every vocabulary that is written in its alphabet.

Knows nothing of a checkpoint's other files, nor of tokenizers that change a text before they cut it: model.library_tokenizer's.
"""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

import tiktoken

from model.added_tokens import AddedToken, TextSplitter
from model.tokenizer import (
    DEFAULT_READING,
    END_OF_TEXT,
    ByteDecoder,
    IncrementalDecoder,
    Reading,
    Tokenizer,
    TokenizerError,
    TokenSpan,
)
from model.vocabulary_files import read_vocab_and_merges

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
        bytes_of_rank = to_bytes(ranked)
        bytes_of_id = {vocab[token]: token_bytes for token, token_bytes in zip(ranked, bytes_of_rank, strict=True)}
        beyond = [token for token, token_id in vocab.items() if token_id not in bytes_of_id]
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

    @classmethod
    def from_files(cls, vocab_file: Path, merges_file: Path) -> "BPETokenizer":
        """Of `vocab.json` and `merges.txt` alone; raises TokenizerError naming the file that is unusable."""
        return cls(*read_vocab_and_merges(vocab_file, merges_file))

    def encode(self, text: str, reading: Reading = DEFAULT_READING) -> list[int]:
        pieces = self._splitter.split(text) if reading.parse_special else [text]
        if pieces == [text]:
            return self._merge(text)
        ids: list[int] = []
        for piece in pieces:
            ids += (piece,) if isinstance(piece, int) else self._merge(piece)
        return ids

    def _merge(self, text: str) -> list[int]:
        ranks = self._encoding.encode_ordinary(text)
        return ranks if self._ids_are_ranks else [self._id_of_rank[rank] for rank in ranks]

    def spans(self, text: str, reading: Reading = DEFAULT_READING) -> list[TokenSpan]:
        decoder, spans, start = self.decoder(skip_special_tokens=False), [], 0
        for token_id in self.encode(text, reading):
            piece = decoder.decode(token_id)
            spans.append(TokenSpan(token_id, piece, start, start + len(piece)))
            start += len(piece)
        return spans

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
                raise TokenizerError(f"the merge {left!r} + {right!r} uses {part!r}, which no earlier merge makes")
        ordered.setdefault(left + right)
    if missing := [token for token in ordered if token not in vocab]:
        raise TokenizerError(f"the vocabulary lacks {len(missing)} of its own merges' tokens, the first is {missing[0]!r}")
    return list(ordered)


def to_bytes(tokens: Sequence[str]) -> list[bytes]:
    """What tokens stand for in the byte alphabet; one with another character in it stands for itself."""
    alphabet = codecs.charmap_build("".join(char for _, char in sorted(byte_alphabet().items())))

    def to_bytes_or_itself(token: str) -> bytes:
        try:
            return codecs.charmap_encode(token, "strict", alphabet)[0]
        except UnicodeEncodeError:
            return token.encode()

    return list(map(to_bytes_or_itself, tokens))
