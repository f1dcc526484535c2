"""Text in, text out: encodes prompts, submits them, and turns the engine's outputs into samples of text. Knows no HTTP."""

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.billing import Bill, Billing
from app.deadline import Deadline, Timeouts
from app.engine.client import EngineClient
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FinishReason, PromptScores, ScoresOutput, TokensOutput
from app.engine.work import NO_WORK, Work
from app.errors import DeadlinePassed, InvalidRequest, PromptTooLong, ServiceError
from app.long_texts import INLINE_BYTES, LongTexts, text_size
from app.metrics import Metrics
from app.prompt import Prompt, ReadPrompt, read_prompts
from app.sample import Sample, TextToken
from app.stop_strings import StopStrings
from model.batch import SamplingParams
from model.tokenizer import DEFAULT_READING, Reading, Tokenizer

Result = TypeVar("Result")


async def off_loop(size: int, work: Callable[[], Result]) -> Result:
    """Write an answer of this size, in token ids, here, or in a thread if the event loop would have to wait for it."""
    return work() if size <= INLINE_BYTES else await asyncio.to_thread(work)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for: `num_samples` of each prompt, which are read by `reading`, the last `truncate` tokens of each.

    A sample ends before the first stop string in what it has after `stop_after` tokens (behind it with `include_stop`), and after
    `max_new_tokens` at the latest; with 0 nothing is generated. `top_n` of the likeliest tokens are told beside each generated one,
    and `prompt_top_n` beside each of the prompts', which are scored unless that is None. All of it takes `timeout_seconds` at most.
    With `tells_cost` there is a bill.
    """

    prompts: tuple[Prompt, ...]
    sampling: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    num_samples: int = 1
    top_n: int = 0
    prompt_top_n: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    truncate: int | None = None
    timeout_seconds: float | None = None
    reading: Reading = DEFAULT_READING
    skip_special_tokens: bool = True
    include_stop: bool = False
    stop_after: int = 0
    tells_cost: bool = False


@dataclass(slots=True)
class Timings:
    """When things happened, in seconds of the engine's clock."""

    arrived: float
    submitted: float  # to the engine; the queue's time begins here
    queue_seconds: float = 0.0
    first_token: float | None = None
    last_output: float | None = None

    @property
    def total_seconds(self) -> float:
        """From arrival to the latest output."""
        return (self.last_output or self.arrived) - self.arrived

    def observe(self, output: TokensOutput | ScoresOutput) -> bool:
        """Whether it is the first; times are those of the engine, so that a reader who is late does not distort them."""
        if is_first := self.last_output is None:
            self.queue_seconds = output.queue_seconds
        self.last_output = output.published_at
        return is_first


class TextGenerator:
    """Starts generations on an engine."""

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        metrics: Metrics,
        billing: Billing,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
    ) -> None:
        self.client, self.tokenizer, self.eos_token_ids, self.metrics = client, tokenizer, tuple(eos_token_ids), metrics
        self.billing, self.timeouts = billing, timeouts
        self.long_texts = LongTexts(metrics, lambda: client.num_unfinished > 0)

    async def start(self, request: GenerationRequest, arrived: float | None = None) -> "Generation":
        """Check and submit a request; raises InvalidRequest, Overloaded, NotReady or DeadlinePassed.

        `arrived` is when it came, if something was done for it before. The caller aborts the result in a `finally`.
        """
        arrived = time.monotonic() if arrived is None else arrived
        self.client.check_ready()
        self._check_ids(request)
        deadline = self.timeouts.deadline(request.timeout_seconds, arrived)
        num_new = min(request.max_new_tokens, 1)
        prompts = await self.read_prompts(request.prompts, num_new, request.reading, request.truncate)
        for prompt in prompts:
            prompt.max_new_tokens = min(request.max_new_tokens, self.client.limits.max_positions - len(prompt.ids))
        requests = [self._engine_request(request, prompt) for prompt in prompts]
        submitted = time.monotonic()
        mailbox = self.submit(*requests, deadline=deadline)
        return Generation(self, mailbox, request, prompts, Timings(arrived, submitted), deadline)

    def submit(self, *requests: EngineRequest, deadline: Deadline | None) -> Mailbox:
        """To the engine, unless the time has passed already."""
        if deadline is None:
            return self.client.submit(*requests)
        deadline.check()
        return self.client.submit(*requests, patience=deadline.seconds)

    def _engine_request(self, request: GenerationRequest, prompt: ReadPrompt) -> EngineRequest:
        scores = None if request.prompt_top_n is None else PromptScores(top_n=request.prompt_top_n)
        if scores is None and prompt.max_new_tokens == 0:
            scores = PromptScores(first=len(prompt.ids))  # of none: the request passes through the engine all the same
        return EngineRequest(
            prompt_ids=tuple(prompt.ids),
            sampling=request.sampling,
            max_new_tokens=prompt.max_new_tokens,
            min_new_tokens=request.min_new_tokens,
            num_samples=request.num_samples if prompt.max_new_tokens else 1,
            eos_token_ids=frozenset() if request.ignore_eos else frozenset(self.eos_token_ids),
            stop_token_ids=request.stop_token_ids,
            top_n=request.top_n,
            scores=scores,
            tells_work=request.tells_cost,
        )

    async def read_prompts(
        self, prompts: Sequence[Prompt], num_new: int, reading: Reading, truncate: int | None = None
    ) -> list[ReadPrompt]:
        """The prompts' ids; raises InvalidRequest if one leaves no room for `num_new` more tokens behind it."""
        limit = self.client.limits.max_positions - num_new
        if truncate is None:
            for i, prompt in enumerate(prompts):
                least = self.tokenizer.least_tokens(prompt) if isinstance(prompt, str) else len(prompt)
                if least > limit:
                    raise PromptTooLong(f"at least {least}", limit, i if len(prompts) > 1 else None)
        read = await self.long_texts.run(
            sum(text_size(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts),
            lambda: read_prompts(self.tokenizer, prompts, reading, truncate, self.eos_token_ids[0]),
        )
        for i, each in enumerate(read):
            if len(each.ids) > limit:
                raise PromptTooLong(str(len(each.ids)), limit, i if len(prompts) > 1 else None)
        return read

    def _check_ids(self, request: GenerationRequest) -> None:
        """Token ids are checked against this model's vocabulary, which a schema cannot know."""
        vocab_size = self.client.limits.vocab_size
        named = {"logit_bias": [i for i, _ in request.sampling.logit_bias], "stop_token_ids": request.stop_token_ids}
        for name, ids in named.items():
            if (unknown := next((i for i in ids if i >= vocab_size), None)) is not None:
                raise InvalidRequest(f"{name}: token id {unknown} is outside the vocabulary of {vocab_size}", param=name)
        for number, prompt in enumerate(request.prompts):
            unknown = None if isinstance(prompt, str) else next((i for i in prompt if i >= vocab_size), None)
            if unknown is not None:
                name = "the prompt" if len(request.prompts) == 1 else f"prompt.{number}"
                message = f"{name} has the token id {unknown}, which is outside the vocabulary of {vocab_size}"
                raise InvalidRequest(message, param="prompt")


@dataclass(slots=True, eq=False)
class Generation:
    """One call under way: `next` until it is finished, `abort` in any case.

    `samples` are those of the first prompt, then those of the second, and so on.
    """

    generator: TextGenerator
    mailbox: Mailbox
    request: GenerationRequest
    prompts: list[ReadPrompt]
    timings: Timings
    deadline: Deadline | None = None
    samples: list[Sample] = field(init=False)
    _work: dict[tuple[int, int], Work] = field(init=False, default_factory=dict)  # of each request's samples so far
    _num_open: int = field(init=False)
    _alarm: asyncio.TimerHandle | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        num_samples = self.request.num_samples
        self.samples = [
            self._sample(i * num_samples + j, j, prompt) for i, prompt in enumerate(self.prompts) for j in range(num_samples)
        ]
        self._num_open = len(self.samples)
        if self.deadline is not None:
            self._alarm = self.deadline.alarm(self.abort)

    def _sample(self, index: int, number: int, prompt: ReadPrompt) -> Sample:
        request, tokenizer = self.request, self.generator.tokenizer
        return Sample(
            index,
            request.sampling.of_sample(number).seed,
            tokenizer,
            tokenizer.decoder(prompt.ids[-1], request.skip_special_tokens),
            StopStrings(request.stop, request.include_stop),
            request.stop_after,
            request.include_stop,
        )

    @property
    def is_finished(self) -> bool:
        return self._num_open == 0

    @property
    def num_prompt(self) -> int:
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def num_reused(self) -> int:
        return sum(prompt.num_reused for prompt in self.prompts)

    @property
    def num_generated(self) -> int:
        return sum(sample.num_generated for sample in self.samples)

    @property
    def bill(self) -> Bill:
        """Of all samples of all prompts, once it is finished; of a request that asked for it."""
        work = functools.reduce(Work.plus, self._work.values(), NO_WORK)
        return self.generator.billing.bill(work, self.timings.arrived)

    @property
    def writing_size(self) -> int:
        """For `off_loop`: writing one of an answer's log-probabilities takes as long as some token ids."""
        request, num_scores = self.request, sum(len(prompt.scores) for prompt in self.prompts)
        # The text of ids, and the places of tokens in a text, are found out only to be told.
        to_read = sum(len(p.given) for p in self.prompts if request.prompt_top_n is not None or not isinstance(p.given, str))
        return to_read + 8 * (self.num_generated * (1 + request.top_n) + num_scores * (1 + (request.prompt_top_n or 0)))

    def samples_of(self, prompt: int, ranked: bool = False) -> list[Sample]:
        """A prompt's samples; ranked the likeliest first, by the mean log-probability a token, and among equals the lower index."""
        num_samples = self.request.num_samples
        samples = self.samples[prompt * num_samples : (prompt + 1) * num_samples]
        return sorted(samples, key=lambda sample: -sample.mean_logprob) if ranked else samples

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
                else:
                    tokens += self._take_tokens(output)
        if self.deadline is not None and self.deadline.seconds_left <= 0:
            self.abort(late := DeadlinePassed(self.deadline.seconds))
            raise late
        return tokens

    def abort(self, error: ServiceError | None = None) -> None:
        """End it if it has not ended; with `error`, a reader that waits is woken by it."""
        self.generator.client.abort(self.mailbox, "expired" if isinstance(error, DeadlinePassed) else "aborted")
        self.mailbox.close()
        if self._alarm is not None:
            self._alarm.cancel()
        if error is not None:
            self.mailbox.fail(error)

    def _take_scores(self, output: ScoresOutput) -> None:
        number = output.request_id - self.mailbox.request_ids.start
        self._observe_output(output)
        prompt = self.prompts[number]
        prompt.num_reused = output.num_reused
        self._work[output.request_id, 0] = output.work
        prompt.scores += [(score.logprob, score.top) for score in output.scores]
        if output.is_last:
            for sample in self.samples_of(number):
                sample.finish_reason = FinishReason.LENGTH
                self._end_one()

    def _take_tokens(self, output: TokensOutput) -> list[TextToken]:
        number = output.request_id - self.mailbox.request_ids.start
        sample = self.samples[number * self.request.num_samples + output.sample]
        if sample.finish_reason is not None:
            return []  # they were drawn past a stop string, and are nobody's
        self._observe_output(output)
        if self.request.tells_cost:
            self._work[output.request_id, output.sample] = output.work
        before, tokens = sample.last_published, sample.take(output)
        metrics, num_tokens = self.generator.metrics, len(tokens)
        if before is None:
            self.prompts[number].num_reused = output.num_reused
            self.timings.first_token = self.timings.first_token or output.published_at
            metrics.first_token.observe(output.published_at - self.timings.arrived)
            metrics.inter_token.observe(0.0, num_tokens - 1)
        else:
            metrics.inter_token.observe((output.published_at - before) / num_tokens, num_tokens)
        if sample.finish_reason is not None:
            if output.finish_reason is None:  # a stop string, which the engine knows nothing of
                self.generator.client.end_sample(output.request_id, output.sample)
            self._end_one()
        return tokens

    def _end_one(self) -> None:
        self._num_open -= 1
        if self.is_finished:
            if self._alarm is not None:
                self._alarm.cancel()
            self.generator.metrics.request.observe(self.timings.total_seconds)

    def _observe_output(self, output: TokensOutput | ScoresOutput) -> None:
        if self.timings.observe(output):
            self.generator.metrics.queue.observe(output.queue_seconds)
