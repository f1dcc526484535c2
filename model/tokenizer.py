"""Text to token ids and back: the border that the service sees, whichever kind of vocabulary a checkpoint has.

Knows nothing of files, HTTP or tensors, nor how a text is cut: model.bpe and model.library_tokenizer do that.
"""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.token_spans import TokenSpans

END_OF_TEXT = "<|endoftext|>"


class TokenizerError(ValueError):
    """The vocabulary cannot be used; the message says what is wrong with it."""


class TokenizerBroke(RuntimeError):
    """The library that cuts texts failed on this one, which is its own bug and nobody's input."""

    @classmethod
    def instead_of(cls, error: BaseException) -> BaseException:
        """The same as an Exception, where it is none; what ends a program stays what it is."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return error
        return cls(f"the tokenizer's library broke: {type(error).__name__}: {error!s:.200}")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read."""

    parse_special: bool = True  # added and special tokens in the text are tokens; else they are plain text
    add_special_tokens: bool = True  # BOS, EOS, [CLS] and [SEP] where the checkpoint's tokenizer adds them


DEFAULT_READING = Reading()
# Text that is text and nothing else: of a corpus, whose writers never thought of tokens.
PLAIN_TEXT = Reading(parse_special=False, add_special_tokens=False)
# Text for a checkpoint that has added tokens: they are tokens in it, as they will be when it is asked; nothing is put around it.
WITHIN_TEXT = Reading(add_special_tokens=False)


class IncrementalDecoder(ABC):
    """Decodes token by token; the pieces are whole characters and add up to `Tokenizer.decode`.

    `offset` is where the latest token's own text begins in all of that, in characters: at the one that the token completes, if any.
    """

    offset: int = 0

    @abstractmethod
    def decode(self, token_id: int) -> str: ...

    @abstractmethod
    def flush(self) -> str:
        """What an unfinished character at the very end comes to: U+FFFD, or nothing if there was none."""


class Tokenizer(ABC):
    """A checkpoint's tokenizer, as `transformers` reads it.

    `vocab` has every token by the name that its files give it, added ones too. Special tokens are those that no reader wants to
    see: in a text decoded they are left out unless asked for.
    """

    merges: Sequence[tuple[str, str]] = ()  # of byte-pair encoding, in the order in which they are preferred

    def __init__(self, vocab: dict[str, int], special_ids: frozenset[int], eos_token_id: int | None) -> None:
        self.vocab, self.special_ids, self.eos_token_id = vocab, special_ids, eos_token_id
        self.files: dict[str, bytes] = {}  # that it was read from, by name: whoever saves it writes the same

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocab.values()) + 1

    @abstractmethod
    def encode(self, text: str, reading: Reading = DEFAULT_READING) -> list[int]: ...

    @abstractmethod
    def spans(self, text: str, reading: Reading = DEFAULT_READING) -> TokenSpans:
        """The tokens of a text with their character offsets; a character cut over tokens belongs to the token that completes it."""

    @abstractmethod
    def least_tokens(self, text: str) -> int:
        """How many tokens a text has at least, however it is cut into them: told without cutting it."""

    @abstractmethod
    def decoder(self, previous: int | None = None, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """A decoder of what follows the token `previous`: vocabularies of words put a space between two."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a special token or an id that the vocabulary does not hold."""

    @abstractmethod
    def name(self, token_id: int) -> str:
        """A token written by itself, as OpenAI's API does: no two tokens have the same."""

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD, unknown ids nothing."""
        decoder = self.decoder(skip_special_tokens=skip_special_tokens)
        pieces = [decoder.decode(token_id) for token_id in token_ids]
        return "".join([*pieces, decoder.flush()])

    @abstractmethod
    def is_special(self, token_id: int) -> bool:
        """Whether it is no part of a text: a special token, or an id without a token, which a padded model may draw."""


def prompt_ids(tokenizer: Tokenizer, prompt: str, eos_token_id: int, reading: Reading = DEFAULT_READING) -> list[int]:
    """A prompt as the model is asked it and as it learns to continue it; an empty one is the end token, behind which texts begin.

    That alone, whatever the tokenizer puts around every text: there is none.
    """
    return (tokenizer.encode(prompt, reading) if prompt else []) or [eos_token_id]


class ByteDecoder(IncrementalDecoder):
    """Of tokens that are bytes: holds back those of an unfinished character."""

    def __init__(self, bytes_of_id: dict[int, bytes]) -> None:
        self._bytes_of_id = bytes_of_id
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._holds_back = False
        self._num_chars = 0

    def decode(self, token_id: int) -> str:
        token, self.offset = self._bytes_of_id.get(token_id, b""), self._num_chars
        text = None if self._holds_back else _whole(token)
        if text is None:
            text = self._decode_parts(token)
        self._num_chars += len(text)
        return text

    def _decode_parts(self, token: bytes) -> str:
        text = ""
        if self._holds_back:
            # What is held back is completed or lengthened by the first byte, or becomes U+FFFD before it.
            text, token = self._utf8.decode(token[:1]), token[1:]
            self.offset += text[:1] == "\ufffd" and (len(text) > 1 or self._utf8.getstate()[0] != b"")
        text += self._utf8.decode(token)
        self._holds_back = self._utf8.getstate()[0] != b""
        return text

    def flush(self) -> str:
        text, self._holds_back = self._utf8.decode(b"", final=True), False
        self._num_chars += len(text)
        self.offset = self._num_chars
        return text


def _whole(token: bytes) -> str | None:
    """The text of bytes that are whole characters, as most tokens are: at a quarter of an incremental decoder's time."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None
