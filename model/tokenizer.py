"""GPT-2's byte-level BPE on tiktoken: text to token ids and back. Knows nothing of checkpoints' other files, HTTP or tensors."""

import codecs
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiktoken

END_OF_TEXT = "<|endoftext|>"

# GPT-2's splitting pattern (its release's encoder.py) in possessive form: it splits alike, and a million spaces cannot exhaust it.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class TokenizerError(ValueError):
    """The vocabulary cannot be used; the message says what is wrong with it."""


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in `vocab.json` and `merges.txt` (GPT-2's release, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """One token of a text and the characters [start, stop) that it covers."""

    id: int
    text: str
    start: int
    stop: int


class Tokenizer:
    """Encodes ordinary text (`<|endoftext|>` in it is plain text) and decodes ids; ids without bytes are special, as the end token.

    `vocab` and `merges` are the contents of a checkpoint's two files. Byte-pair merging is that of Sennrich et al. 2016, on bytes
    as in Radford et al. 2019, section 2.2.
    """

    def __init__(self, vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self.vocab, self.merges = vocab, merges
        ranked = _tokens_by_rank(merges)
        missing = [token for token in ranked if token not in vocab]
        if missing:
            raise TokenizerError(f"the vocabulary lacks {len(missing)} of its own merges' tokens, the first is {missing[0]!r}")
        alphabet = codecs.charmap_build("".join(char for _, char in sorted(byte_alphabet().items())))
        token_bytes = [codecs.charmap_encode(token, "strict", alphabet)[0] for token in ranked]
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(token_bytes)},
            special_tokens={},
        )
        # tiktoken's ids are merge ranks; a checkpoint may number its tokens otherwise (the end token first, say).
        self._id_of_rank = [vocab[token] for token in ranked]
        self._ids_are_ranks = self._id_of_rank == list(range(len(ranked)))
        self.max_token_bytes = max(map(len, token_bytes))  # 128 in GPT-2's own vocabulary
        self._bytes_of_id = dict(zip(self._id_of_rank, token_bytes, strict=True))
        self._special_names = {i: token for token, i in vocab.items() if i not in self._bytes_of_id}

    @classmethod
    def from_files(cls, vocab_file: Path, merges_file: Path) -> "Tokenizer":
        """Read `vocab.json` and `merges.txt`; raises TokenizerError naming the file that is unusable."""
        try:
            vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{vocab_file} is not JSON: {error}") from error
        try:
            lines = merges_file.read_text(encoding="utf-8").split("\n")
        except ValueError as error:
            raise TokenizerError(f"{merges_file} is not UTF-8 text: {error}") from error
        if lines[0].startswith("#version"):
            lines = lines[1:]
        return cls(_checked_vocab(vocab, vocab_file), _checked_merges([line.split(" ") for line in lines if line], merges_file))

    @classmethod
    def from_tokenizer_json(cls, file: Path) -> "Tokenizer":
        """Read the `tokenizer.json` of the `tokenizers` library; raises TokenizerError if it is not a GPT-2 one."""
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
            model = contents["model"]
            if model["type"] != "BPE":
                raise TokenizerError(f"{file} holds a {model['type']} model; GPT-2's is BPE")
            vocab = model["vocab"] | {token["content"]: token["id"] for token in contents.get("added_tokens", [])}
            merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        except TokenizerError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise TokenizerError(f"{file} is not a tokenizer of the `tokenizers` library: {error!r}") from error
        return cls(_checked_vocab(vocab, file), _checked_merges(merges, file))

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocab.values()) + 1

    @property
    def eos_token_id(self) -> int | None:
        return self.vocab.get(END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        ranks = self._encoding.encode_ordinary(text)
        return ranks if self._ids_are_ranks else [self._id_of_rank[rank] for rank in ranks]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a special token or an id that the vocabulary does not hold."""
        return self._bytes_of_id.get(token_id, b"")

    def is_special(self, token_id: int) -> bool:
        return token_id not in self._bytes_of_id

    def name(self, token_id: int) -> str:
        """A token written by itself, as OpenAI's API does: bytes that are no whole characters as `bytes:\\xe2`."""
        token = self.token_bytes(token_id)
        if not token:
            return self._special_names.get(token_id, f"<|{token_id}|>")
        try:
            return token.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, special tokens nothing."""
        return b"".join(map(self.token_bytes, token_ids)).decode("utf-8", errors="replace")

    def decoder(self) -> "IncrementalDecoder":
        return IncrementalDecoder(self)

    def spans(self, text: str) -> list[TokenSpan]:
        """The tokens of a text with their character offsets; a character cut over tokens belongs to the token that completes it."""
        decoder, spans, start = self.decoder(), [], 0
        for token_id in self.encode(text):
            piece = decoder.decode(token_id)
            spans.append(TokenSpan(token_id, piece, start, start + len(piece)))
            start += len(piece)
        return spans


class IncrementalDecoder:
    """Decodes token by token; holds back the bytes of an unfinished character, so that the pieces add up to `Tokenizer.decode`.

    `offset` is where the latest token's own text begins in all of that, in characters: at the one that the token completes, if any.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_chars = 0
        self.offset = 0

    def decode(self, token_id: int) -> str:
        token, text, self.offset = self._tokenizer.token_bytes(token_id), "", self._num_chars
        if self._utf8.getstate()[0]:
            # What is held back is completed or lengthened by the first byte, or becomes U+FFFD before it.
            text, token = self._utf8.decode(token[:1]), token[1:]
            self.offset += text[:1] == "\ufffd" and (len(text) > 1 or self._utf8.getstate()[0] != b"")
        text += self._utf8.decode(token)
        self._num_chars += len(text)
        return text

    def flush(self) -> str:
        """What an unfinished character at the very end comes to: U+FFFD, or nothing if there was none."""
        text = self._utf8.decode(b"", final=True)
        self._num_chars += len(text)
        self.offset = self._num_chars
        return text


def _checked_vocab(vocab: object, file: Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not all(type(i) is int and i >= 0 for i in vocab.values()):
        raise TokenizerError(f"{file} must have one object that maps tokens to ids")
    if len(set(vocab.values())) < len(vocab):
        raise TokenizerError(f"{file} gives several tokens the same id")
    return vocab


def _checked_merges(pairs: Sequence[object], file: Path) -> list[tuple[str, str]]:
    merges = []
    for pair in pairs:
        # Written out: a vocabulary has 50,000 of these, and a generator for each would take a twentieth of a second of every start.
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str or "" in pair:
            raise TokenizerError(f"{file}: a merge is two tokens parted by one space, not {pair!r}")
        merges.append((pair[0], pair[1]))
    return merges


def _tokens_by_rank(merges: Sequence[tuple[str, str]]) -> list[str]:
    """All tokens in the order in which merging prefers them: the 256 bytes in GPT-2's order, then each merge's product."""
    ordered = dict.fromkeys(sorted(byte_alphabet().values()))
    for left, right in merges:
        for part in (left, right):
            if part not in ordered:
                raise TokenizerError(f"the merge {left!r} + {right!r} uses {part!r}, which no earlier merge makes")
        ordered.setdefault(left + right)
    return list(ordered)
