"""Candidates that may follow a prompt, and how likely each is: a request of the engine for each, all at once. Knows no HTTP."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from app.billing import Bill
from app.deadline import Deadline
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, PromptScores, ScoresOutput
from app.engine.work import NO_WORK, Work
from app.errors import DeadlinePassed, InvalidRequest, ServiceError
from app.generation import TextGenerator, Timings
from app.long_texts import text_size
from app.prompt import Prompt
from model.batch import SamplingParams
from model.tokenizer import Reading


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """A candidate's token ids and the log-probability of each after the prompt and those before it."""

    token_ids: list[int]
    logprobs: list[float]


@dataclass(slots=True, eq=False)
class Scoring:
    """Candidates under way, as `start_scoring` submitted them: `scores` once, `abort` in any case."""

    generator: TextGenerator
    prompt_ids: list[int]
    candidate_ids: list[list[int]]
    mailbox: Mailbox
    deadline: Deadline | None
    timings: Timings
    num_reused: int = 0
    _work: Work = field(init=False, default=NO_WORK)
    _alarm: asyncio.TimerHandle | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.deadline is not None:
            self._alarm = self.deadline.alarm(self.abort)

    @property
    def num_prompt(self) -> int:
        """The prompt counts once, however many candidates share it."""
        return len(self.prompt_ids) + sum(map(len, self.candidate_ids))

    @property
    def num_generated(self) -> int:
        return 0

    async def scores(self) -> list[CandidateScore]:
        """One a candidate, in their order; raises what made one of them fail."""
        first = self.mailbox.request_ids.start
        logprobs: list[list[float]] = [[] for _ in self.candidate_ids]
        num_open = len(logprobs)
        while num_open:
            for output in await self.mailbox.get(None):
                assert isinstance(output, ScoresOutput), "nothing was to be drawn"
                self.timings.observe(output)
                logprobs[output.request_id - first] += [score.logprob for score in output.scores]
                if output.is_last:
                    num_open -= 1
                    self._work = self._work.plus(output.work)
                if output.request_id == first:  # the others share its prefix, which is no earlier request's
                    self.num_reused = min(output.num_reused, len(self.prompt_ids))
        return [CandidateScore(*candidate) for candidate in zip(self.candidate_ids, logprobs, strict=True)]

    @property
    def bill(self) -> Bill:
        """Of all candidates, once they are scored; of a request that asked for it."""
        return self.generator.billing.bill(self._work, self.timings.arrived)

    def abort(self, error: ServiceError | None = None) -> None:
        """End what has not ended; with `error`, a reader that waits is woken by it."""
        self.generator.client.abort(self.mailbox, "expired" if isinstance(error, DeadlinePassed) else "aborted")
        if self._alarm is not None:
            self._alarm.cancel()
        if error is not None:
            self.mailbox.fail(error)


async def start_scoring(
    generator: TextGenerator,
    prompt: Prompt,
    candidates: Sequence[str],
    reading: Reading,
    timeout_seconds: float | None = None,
    tells_cost: bool = False,
) -> Scoring:
    """Check and submit; raises InvalidRequest that names the field, Overloaded, NotReady or DeadlinePassed.

    The caller aborts the result.
    """
    arrived = time.monotonic()
    deadline = generator.timeouts.deadline(timeout_seconds, arrived)
    generator.client.check_ready()
    (read,) = await generator.read_prompts((prompt,), num_new=1, reading=reading)
    prompt_ids, tokenizer = read.ids, generator.tokenizer
    room = generator.client.limits.max_positions - len(prompt_ids)
    for i, candidate in enumerate(candidates):
        if tokenizer.least_tokens(candidate) > room:
            raise _too_long(i, f"at least {room + 1}", room)
    going_on = replace(reading, add_special_tokens=False)  # a candidate begins nothing
    candidate_ids = await generator.long_texts.run(
        sum(map(text_size, candidates)), lambda: [tokenizer.encode(candidate, going_on) for candidate in candidates]
    )
    for i, token_ids in enumerate(candidate_ids):
        if len(token_ids) > room:
            raise _too_long(i, str(len(token_ids)), room)
    scores = PromptScores(first=len(prompt_ids))
    requests = [
        EngineRequest((*prompt_ids, *token_ids), SamplingParams(), 0, scores=scores, tells_work=tells_cost)
        for token_ids in candidate_ids
    ]
    timings = Timings(arrived, submitted=time.monotonic())
    return Scoring(generator, prompt_ids, candidate_ids, generator.submit(*requests, deadline=deadline), deadline, timings)


def _too_long(index: int, num_tokens: str, room: int) -> InvalidRequest:
    message = f"candidates.{index}: it has {num_tokens} tokens; after this prompt the context has room for {room}"
    return InvalidRequest(message, param=f"candidates.{index}")
