"""Text in, text out: encodes the prompt, turns the engine's tokens into text and watches for stop strings. Knows no HTTP."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from app.engine.async_engine import AsyncEngine, Mailbox
from app.engine.sequence import EngineRequest, FinishReason, TokenOutput
from app.errors import InvalidRequest, PromptTooLong, ServiceError
from app.metrics import Metrics
from app.stop_strings import StopStrings
from model.batch import SamplingParams
from model.tokenizer import IncrementalDecoder, Tokenizer

INLINE_SIZE = 8192  # characters or token ids, which take under 2 ms

Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Do a tokenizer's work of this size here, or in a thread if the event loop would have to wait for it."""
    return work() if size <= INLINE_SIZE else await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for. The text ends before the first stop string in it, and after `max_new_tokens` at the latest."""

    prompt: str
    sampling: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class TextToken:
    """A generated token and the text that it completes: none while a character, or what may be a stop string, is unfinished."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(slots=True)
class Timings:
    """When things happened, in seconds of a monotonic clock; those that have not are None."""

    arrived: float
    queue_seconds: float = 0.0
    first_token: float | None = None
    last_token: float | None = None


class TextGenerator:
    """Starts generations on an engine."""

    def __init__(self, engine: AsyncEngine, tokenizer: Tokenizer, eos_token_id: int, metrics: Metrics) -> None:
        self.engine, self.tokenizer, self.eos_token_id, self.metrics = engine, tokenizer, eos_token_id, metrics
        self.max_positions = engine.engine.runner.max_positions
        self.vocab_size = engine.engine.runner.vocab_size

    async def start(self, request: GenerationRequest) -> "Generation":
        """Check and submit a request; raises InvalidRequest, QueueFull or NotReady. The caller aborts the result in a `finally`."""
        arrived = time.monotonic()
        self.engine.check_ready()
        self._check_ids(request)
        prompt_ids = await self._encode_prompt(request.prompt)
        max_new_tokens = min(request.max_new_tokens, self.max_positions - len(prompt_ids))
        mailbox = self.engine.submit(
            EngineRequest(
                sequence_id=-1,  # the engine numbers its sequences
                prompt_ids=tuple(prompt_ids),
                sampling=request.sampling,
                max_new_tokens=max_new_tokens,
                min_new_tokens=request.min_new_tokens,
                eos_token_id=None if request.ignore_eos else self.eos_token_id,
                stop_token_ids=request.stop_token_ids,
            )
        )
        return Generation(self, mailbox, request, prompt_ids, max_new_tokens, Timings(arrived))

    async def _encode_prompt(self, prompt: str) -> list[int]:
        limit = self.max_positions - 1
        num_bytes = len(prompt.encode())
        if num_bytes > limit * self.tokenizer.max_token_bytes:  # too long however it is cut into tokens
            raise PromptTooLong(f"at least {-(-num_bytes // self.tokenizer.max_token_bytes)}", limit)
        prompt_ids = await off_loop(len(prompt), lambda: self.tokenizer.encode(prompt))
        if not prompt_ids:
            raise InvalidRequest("the prompt is empty; it must have at least one token", param="prompt")
        if len(prompt_ids) > limit:
            raise PromptTooLong(str(len(prompt_ids)), limit)
        return prompt_ids

    def _check_ids(self, request: GenerationRequest) -> None:
        """Token ids are checked against this model's vocabulary, which a schema cannot know."""
        named = {"logit_bias": [i for i, _ in request.sampling.logit_bias], "stop_token_ids": request.stop_token_ids}
        for name, ids in named.items():
            for token_id in ids:
                if token_id >= self.vocab_size:
                    raise InvalidRequest(f"{name}: token id {token_id} is outside the vocabulary of {self.vocab_size}", param=name)


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way: `next` until `finish_reason` is set, `abort` in any case."""

    generator: TextGenerator
    mailbox: Mailbox
    request: GenerationRequest
    prompt_ids: list[int]
    max_new_tokens: int
    timings: Timings
    text: str = ""
    num_generated: int = 0
    num_reused: int = 0
    finish_reason: FinishReason | None = None
    _stops: StopStrings = field(init=False)
    _decoder: IncrementalDecoder = field(init=False)

    def __post_init__(self) -> None:
        self._stops = StopStrings(self.request.stop)
        self._decoder = self.generator.tokenizer.decoder()

    async def next(self, patience: float | None = None) -> list[TextToken]:
        """The tokens that have come since, none if `patience` seconds pass in silence; raises what made the generation fail."""
        tokens: list[TextToken] = []
        for output in await self.mailbox.get(patience):
            if self.finish_reason is None:  # tokens that the engine drew past a stop string are nobody's
                tokens.append(self._take(output))
        return tokens

    def abort(self, error: ServiceError | None = None) -> None:
        """End it if it has not ended; with `error`, a reader that waits is woken by it."""
        self.generator.engine.abort(self.mailbox)
        if error is not None:
            self.mailbox.fail(error)

    def _take(self, output: TokenOutput) -> TextToken:
        self._observe(output)
        tokenizer = self.generator.tokenizer
        ended_by_id = output.finish_reason in (FinishReason.EOS, FinishReason.STOP)
        text, stopped = self._stops.feed("" if ended_by_id else self._decoder.decode(output.token_id))
        if stopped:
            self.finish_reason = FinishReason.STOP
        elif output.finish_reason is not None:
            tail, stopped = self._stops.feed(self._decoder.flush())
            text += tail if stopped else tail + self._stops.flush()
            self.finish_reason = FinishReason.STOP if stopped else output.finish_reason
        if self.finish_reason is not None:
            self.abort()
            self.generator.metrics.request.observe(self.seconds)
        self.text += text
        self.num_generated += 1
        return TextToken(output.token_id, text, output.logprob, tokenizer.is_special(output.token_id))

    def _observe(self, output: TokenOutput) -> None:
        now, metrics, timings = time.monotonic(), self.generator.metrics, self.timings
        if timings.last_token is None:
            timings.first_token, timings.queue_seconds = now, output.queue_seconds
            self.num_reused = output.num_reused
            metrics.queue.observe(output.queue_seconds)
            metrics.first_token.observe(now - timings.arrived)
        else:
            metrics.inter_token.observe(now - timings.last_token)
        timings.last_token = now

    @property
    def seconds(self) -> float:
        """From arrival to the latest token."""
        return (self.timings.last_token or self.timings.arrived) - self.timings.arrived
