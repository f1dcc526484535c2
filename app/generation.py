"""Text in, text out: encodes prompts, submits them, and turns the engine's outputs into samples of text. Knows no HTTP."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from app.engine.client import EngineClient
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FinishReason, PromptScores, ScoresOutput, TokenOutput
from app.errors import InvalidRequest, PromptTooLong, ServiceError
from app.metrics import Metrics
from app.sample import PromptToken, Sample, TextToken
from model.batch import SamplingParams, Top
from model.tokenizer import Tokenizer

INLINE_SIZE = 8192  # characters or token ids, which take under 2 ms

Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Do a tokenizer's work of this size here, or in a thread if the event loop would have to wait for it."""
    return work() if size <= INLINE_SIZE else await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for. A sample ends before the first stop string in it, and after `max_new_tokens` at the latest.

    `top_n` of the likeliest tokens are told beside each generated one, and `prompt_top_n` beside each of the prompt's, which are
    scored unless that is None. With `max_new_tokens` 0 nothing is generated.
    """

    prompt: str
    sampling: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    num_samples: int = 1
    top_n: int = 0
    prompt_top_n: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(slots=True)
class Timings:
    """When things happened, in seconds of the engine's clock."""

    arrived: float
    queue_seconds: float = 0.0
    last_output: float | None = None

    @property
    def total_seconds(self) -> float:
        """From arrival to the latest output."""
        return (self.last_output or self.arrived) - self.arrived


class TextGenerator:
    """Starts generations on an engine."""

    def __init__(self, client: EngineClient, tokenizer: Tokenizer, eos_token_id: int, metrics: Metrics) -> None:
        self.client, self.tokenizer, self.eos_token_id, self.metrics = client, tokenizer, eos_token_id, metrics

    async def start(self, request: GenerationRequest) -> "Generation":
        """Check and submit a request; raises InvalidRequest, QueueFull or NotReady. The caller aborts the result in a `finally`."""
        arrived = time.monotonic()
        self.client.check_ready()
        self._check_ids(request)
        prompt_ids = await self.encode_prompt(request.prompt, num_new=min(request.max_new_tokens, 1))
        max_new_tokens = min(request.max_new_tokens, self.client.limits.max_positions - len(prompt_ids))
        mailbox = self.client.submit(self._engine_request(request, prompt_ids, max_new_tokens))
        return Generation(self, mailbox, request, prompt_ids, max_new_tokens, Timings(arrived))

    def _engine_request(self, request: GenerationRequest, prompt_ids: list[int], max_new_tokens: int) -> EngineRequest:
        scores = None if request.prompt_top_n is None else PromptScores(top_n=request.prompt_top_n)
        if scores is None and max_new_tokens == 0:
            scores = PromptScores(first=len(prompt_ids))  # of none: the request passes through the engine all the same
        return EngineRequest(
            prompt_ids=tuple(prompt_ids),
            sampling=request.sampling,
            max_new_tokens=max_new_tokens,
            min_new_tokens=request.min_new_tokens,
            num_samples=request.num_samples if max_new_tokens else 1,
            eos_token_ids=frozenset() if request.ignore_eos else frozenset({self.eos_token_id}),
            stop_token_ids=request.stop_token_ids,
            top_n=request.top_n,
            scores=scores,
        )

    def least_tokens(self, text: str) -> int:
        """How many tokens a text has at least, however it is cut into them."""
        return self.tokenizer.least_tokens(text)

    async def encode_prompt(self, prompt: str, num_new: int) -> list[int]:
        """The prompt's ids; raises InvalidRequest if there is none, or no room for `num_new` more tokens behind them."""
        limit = self.client.limits.max_positions - num_new
        if (least := self.least_tokens(prompt)) > limit:
            raise PromptTooLong(f"at least {least}", limit)
        prompt_ids = await off_loop(len(prompt), lambda: self.tokenizer.encode(prompt))
        if not prompt_ids:
            raise InvalidRequest("the prompt is empty; it must have at least one token", param="prompt")
        if len(prompt_ids) > limit:
            raise PromptTooLong(str(len(prompt_ids)), limit)
        return prompt_ids

    def _check_ids(self, request: GenerationRequest) -> None:
        """Token ids are checked against this model's vocabulary, which a schema cannot know."""
        vocab_size = self.client.limits.vocab_size
        named = {"logit_bias": [i for i, _ in request.sampling.logit_bias], "stop_token_ids": request.stop_token_ids}
        for name, ids in named.items():
            for token_id in ids:
                if token_id >= vocab_size:
                    raise InvalidRequest(f"{name}: token id {token_id} is outside the vocabulary of {vocab_size}", param=name)


@dataclass(slots=True, eq=False)
class Generation:
    """One request under way: `next` until it is finished, `abort` in any case."""

    generator: TextGenerator
    mailbox: Mailbox
    request: GenerationRequest
    prompt_ids: list[int]
    max_new_tokens: int
    timings: Timings
    num_reused: int = 0
    samples: list[Sample] = field(init=False)
    _prompt_scores: list[tuple[float | None, Top]] = field(init=False, default_factory=list)
    _num_open: int = field(init=False)

    def __post_init__(self) -> None:
        request, tokenizer = self.request, self.generator.tokenizer
        seeds = [request.sampling.of_sample(i).seed for i in range(request.num_samples)]
        self.samples = [Sample(i, seed, tokenizer, request.stop) for i, seed in enumerate(seeds)]
        self._num_open = len(self.samples)

    @property
    def is_finished(self) -> bool:
        return self._num_open == 0

    @property
    def num_generated(self) -> int:
        return sum(sample.num_generated for sample in self.samples)

    @property
    def writing_size(self) -> int:
        """For `off_loop`: writing one of an answer's log-probabilities takes as long as some token ids."""
        request = self.request
        return 8 * (self.num_generated * (1 + request.top_n) + len(self._prompt_scores) * (1 + (request.prompt_top_n or 0)))

    def ranked_samples(self) -> list[Sample]:
        """The likeliest first, by the mean log-probability a token; among equals the lower index."""
        return sorted(self.samples, key=lambda sample: -sample.mean_logprob)

    def prompt_tokens(self) -> list[PromptToken]:
        """The prompt's tokens, the first of which has no log-probability; complete before the first token is generated."""
        decoder, tokens = self.generator.tokenizer.decoder(), []
        unscored: list[tuple[float | None, Top]] = [(None, ())] * (len(self.prompt_ids) - len(self._prompt_scores))
        for token_id, (logprob, top) in zip(self.prompt_ids, unscored + self._prompt_scores, strict=True):
            text = decoder.decode(token_id)
            tokens.append(PromptToken(token_id, text, decoder.offset, logprob, top))
        return tokens

    async def next(self, patience: float | None = None) -> list[TextToken]:
        """The tokens that have come since, none if `patience` seconds pass in silence or if it ends without a token.

        Raises what made the generation fail.
        """
        tokens: list[TextToken] = []
        while not tokens and self._num_open:
            outputs = await self.mailbox.get(patience)
            if not outputs:
                break
            for output in outputs:
                if isinstance(output, ScoresOutput):
                    self._take_scores(output)
                elif self.samples[output.sample].finish_reason is None:  # or it was drawn past a stop string, and is nobody's
                    tokens.append(self._take_token(output))
        return tokens

    def abort(self, error: ServiceError | None = None) -> None:
        """End it if it has not ended; with `error`, a reader that waits is woken by it."""
        self.generator.client.abort(self.mailbox)
        if error is not None:
            self.mailbox.fail(error)

    def _take_scores(self, output: ScoresOutput) -> None:
        self._observe_output(output)
        self._prompt_scores += [(score.logprob, score.top) for score in output.scores]
        if output.is_last:
            for sample in self.samples:
                sample.finish_reason = FinishReason.LENGTH
            self._num_open = 0
            self.generator.metrics.request.observe(self.timings.total_seconds)

    def _take_token(self, output: TokenOutput) -> TextToken:
        sample = self.samples[output.sample]
        self._observe_output(output)
        metrics = self.generator.metrics
        if sample.last_published is None:
            metrics.first_token.observe(output.published_at - self.timings.arrived)
        else:
            metrics.inter_token.observe(output.published_at - sample.last_published)
        token = sample.take(output)
        if token.finish_reason is not None:
            if output.finish_reason is None:  # a stop string, which the engine knows nothing of
                self.generator.client.abort(self.mailbox, sample.index)
            self._num_open -= 1
            if self.is_finished:
                metrics.request.observe(self.timings.total_seconds)
        return token

    def _observe_output(self, output: TokenOutput | ScoresOutput) -> None:
        """Times are those of the engine, so that a reader who is late does not distort them."""
        timings = self.timings
        if timings.last_output is None:
            timings.queue_seconds, self.num_reused = output.queue_seconds, output.num_reused
            self.generator.metrics.queue.observe(output.queue_seconds)
        timings.last_output = output.published_at
