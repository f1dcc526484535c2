"""The dialects of servers: how a stream is asked for, and how many tokens each of its events carries. Knows no sockets.

A reader takes in the events of one answer, and tells at the end when tokens came and how many at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

Json = dict[str, Any]


class Arrival(NamedTuple):
    """Tokens that came in one event, `time` seconds after the load began."""

    time: float
    num_tokens: int


class Reader(Protocol):
    num_prompt: int | None  # the prompt's tokens, as the server tells them
    is_finished: bool  # the answer has come to the dialect's own end
    is_counted: bool  # the number of tokens is the server's, in all or in each event

    def read(self, event: Json, now: float) -> None: ...

    def arrivals(self) -> list[Arrival]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of a server, in no dialect yet."""

    prompt: str
    max_new_tokens: int
    model: str | None = None
    ignore_eos: bool = True


class Dialect(Protocol):
    @property
    def path(self) -> str: ...

    @property
    def reader(self) -> Callable[[], Reader]: ...


@dataclass(frozen=True, slots=True)
class KnownDialect:
    """One that requests can be written in, too. All ask for the likeliest tokens, so that all ask for the same work."""

    path: str
    reader: Callable[[], Reader]
    body: Callable[[Asked], Json]


class TokenReader:
    """text-generation-inference's stream: an event is a token, the last one carries the text."""

    is_counted = True

    def __init__(self) -> None:
        self.num_prompt: int | None = None
        self.is_finished = False
        self._arrivals: list[Arrival] = []

    def read(self, event: Json, now: float) -> None:
        if event["token"] is not None:
            self._arrivals.append(Arrival(now, 1))
        if event.get("generated_text") is not None:
            self.is_finished = True
            self.num_prompt = (event.get("details") or {}).get("input_length")

    def arrivals(self) -> list[Arrival]:
        return self._arrivals


class _Chunk(NamedTuple):
    time: float
    has_text: bool
    num_generated: int | None  # so far, where the server tells it in every chunk


class ChunkReader:
    """OpenAI's streams: a chunk carries some text, of one token or of several; only the usage tells of how many."""

    def __init__(self, text_of: Callable[[Json], str | None]) -> None:
        """`text_of` a choice is None where the chunk is no token's."""
        self.num_prompt: int | None = None
        self.is_finished = self.is_counted = False
        self._text_of = text_of
        self._chunks: list[_Chunk] = []
        self._num_generated = 0

    def read(self, event: Json, now: float) -> None:
        usage = event.get("usage")
        if usage:
            self.num_prompt, self._num_generated = usage["prompt_tokens"], usage["completion_tokens"]
            self.is_counted = True
        for choice in event["choices"]:
            text = self._text_of(choice)
            if text is not None:
                self._chunks.append(_Chunk(now, text != "", self._num_generated if usage else None))
            self.is_finished = self.is_finished or choice.get("finish_reason") is not None

    def arrivals(self) -> list[Arrival]:
        """By the usage in every chunk where it is there; else a token a chunk if that is as many as the usage says in the end.

        Otherwise the tokens of the usage are shared out evenly over the chunks that have text: their sum and their ends are true.
        """
        if self._chunks and all(chunk.num_generated is not None for chunk in self._chunks):
            counts = [0, *(chunk.num_generated or 0 for chunk in self._chunks)]
            return _arrivals(self._chunks, [max(0, count - before) for before, count in pairwise(counts)])
        if not self.is_counted or self._num_generated == len(self._chunks):
            return _arrivals(self._chunks, [1] * len(self._chunks))
        chunks = [chunk for chunk in self._chunks if chunk.has_text]
        bounds = [self._num_generated * i // len(chunks) for i in range(len(chunks) + 1)] if chunks else []
        return _arrivals(chunks, [end - start for start, end in pairwise(bounds)])


def _arrivals(chunks: list[_Chunk], counts: list[int]) -> list[Arrival]:
    return [Arrival(chunk.time, count) for chunk, count in zip(chunks, counts, strict=True) if count]


def _completion_text(choice: Json) -> str | None:
    return choice.get("text")


def _chat_text(choice: Json) -> str | None:
    """A chunk that only opens the message, with its role, is no token's."""
    delta = choice.get("delta") or {}
    text: str | None = delta.get("content")
    return None if "role" in delta and not text else text


def _generate_body(asked: Asked) -> Json:
    parameters: Json = {"max_new_tokens": asked.max_new_tokens}
    return {"inputs": asked.prompt, "parameters": parameters | ({"ignore_eos": True} if asked.ignore_eos else {})}


def _openai_body(asked: Asked) -> Json:
    """Without `ignore_eos` nothing that OpenAI's own API lacks; with it also vLLM's way to tell the usage in every chunk."""
    options = {"include_usage": True} | ({"continuous_usage_stats": True} if asked.ignore_eos else {})
    body: Json = {"max_tokens": asked.max_new_tokens, "temperature": 0, "stream": True, "stream_options": options}
    return body | ({"model": asked.model} if asked.model else {}) | ({"ignore_eos": True} if asked.ignore_eos else {})


DIALECTS: dict[str, KnownDialect] = {
    "generate": KnownDialect("/generate_stream", TokenReader, _generate_body),
    "completions": KnownDialect(
        "/v1/completions",
        lambda: ChunkReader(_completion_text),
        lambda asked: {"prompt": asked.prompt, **_openai_body(asked)},
    ),
    "chat": KnownDialect(
        "/v1/chat/completions",
        lambda: ChunkReader(_chat_text),
        lambda asked: {"messages": [{"role": "user", "content": asked.prompt}], **_openai_body(asked)},
    ),
}
