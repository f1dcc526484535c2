"""The state of one sample of a request inside the engine, and the values it exchanges with the outside. Token ids only."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from app.engine.work import NO_WORK, Account, Work
from model.batch import Chunk, Draw, SampledToken, SamplingParams, ScoredToken, Scores, TokenMask


class FinishReason(StrEnum):
    """Why a sample ended; the values are those of the HTTP contract."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What is asked of a prompt's own tokens: the log-probabilities of tokens[first:] (first is at least 1) and `top_n` others."""

    first: int = 1
    top_n: int = 0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What is asked of the engine: a prompt of at least one token, how to draw, how often, and when to end.

    Prompt and new tokens together fit into the model's context. Sample i of `num_samples` draws with the seed + i modulo 2^64, as
    a request of its own with that seed would. With `max_new_tokens` 0 nothing is drawn: the prompt is scored. `eos_token_ids` is
    empty where the end token is an ordinary one. What `mask` leaves out is never drawn. With `tells_work` all outputs do.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    num_samples: int = 1
    eos_token_ids: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    top_n: int = 0
    scores: PromptScores | None = None
    mask: TokenMask | None = None
    tells_work: bool = False


class TokensOutput(NamedTuple):
    """A sample's new tokens of a step, one at least; the last of them all comes with the finish reason.

    `published_at` is when the engine had them, a time of its clock, whenever they are read. `work` is what the sample has taken so
    far, if that was asked for.
    """

    request_id: int
    sample: int
    tokens: tuple[SampledToken, ...]
    finish_reason: FinishReason | None
    published_at: float
    queue_seconds: float
    num_reused: int
    work: Work = NO_WORK

    @property
    def token_ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]


@dataclass(frozen=True, slots=True)
class ScoresOutput:
    """The next of the prompt's scored tokens, in their order; `is_last` ends a request of which nothing is drawn."""

    request_id: int
    scores: tuple[ScoredToken, ...]
    is_last: bool
    published_at: float
    queue_seconds: float
    num_reused: int
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class FailureOutput:
    """The end of a request, all its samples, that the engine could not carry on."""

    request_id: int
    message: str


Output = TokensOutput | ScoresOutput | FailureOutput


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample on its way: waiting without a slot, then running in one.

    Of samples with one prompt the first to run is the `leader`: its prompt's last row gives its followers their first tokens too.
    They wait for slots meanwhile, into which what it has computed is copied.
    """

    request_id: int
    sample: int
    request: EngineRequest
    arrived_at: float
    sampling: SamplingParams = field(init=False)
    end_ids: tuple[int, ...] = field(init=False)
    token_ids: list[int] = field(init=False)
    num_prompt: int = field(init=False)  # looked at many times a step
    slot: int | None = None
    started_at: float | None = None
    num_cached: int = 0  # positions whose keys and values are in the slot
    num_reused: int = 0  # of the prompt's, the ones that were computed for somebody else
    has_ended: bool = False  # what a step under way still brings for it is dropped
    leader: "Sequence | None" = None
    followers: list["Sequence"] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.sampling = self.request.sampling.of_sample(self.sample)
        self.end_ids = tuple(sorted(self.request.eos_token_ids | self.request.stop_token_ids))
        self.token_ids = list(self.request.prompt_ids)
        self.num_prompt = len(self.token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_prefilling(self) -> bool:
        return self.num_cached < self.num_prompt

    @property
    def scores(self) -> PromptScores | None:
        """A prompt is scored once, whatever the number of its samples."""
        return self.request.scores if self.sample == 0 else None

    @property
    def num_scored(self) -> int:
        """Rows after which a token of the prompt has been scored: from the one before the first such token on."""
        return max(min(self.num_cached, self.num_prompt - 1) - (self.scores.first - 1), 0) if self.scores else 0

    @property
    def max_reused(self) -> int:
        """The positions that need not be run here: all but those after which something is drawn or scored."""
        if self.num_generated:
            return self.num_prompt
        return min(self.num_prompt, self.scores.first if self.scores else self.num_prompt) - 1

    @property
    def queue_seconds(self) -> float:
        assert self.started_at is not None
        return self.started_at - self.arrived_at

    def can_follow(self, leader: "Sequence") -> bool:
        """Whether the leader's last row of the prompt is this one's too.

        The leader draws its first token there. A request's scores come before its tokens, and a mask that leaves nothing is to
        fail nobody else's.
        """
        if self.num_prompt != leader.num_prompt or self.request.prompt_ids != leader.request.prompt_ids:
            return False  # so it is with most
        is_fresh = self.leader is None and not self.num_generated and self.scores is None and self.request.max_new_tokens > 0
        is_led = leader.is_prefilling and leader.request.max_new_tokens > 0 and not leader.num_generated
        is_free = self.request_id == leader.request_id or (self.request.scores is None and self.request.mask is None)
        return is_fresh and is_led and is_free

    def next_chunk(self, max_tokens: int, multiple: int) -> Chunk:
        """The next token to decode, or of the prompt at most `max_tokens`, to its end or to a multiple of `multiple`.

        With both at the prefill chunk's size cuts depend on the sequence alone; with a multiple of 1 the step decides.
        """
        assert self.slot is not None
        start = self.num_cached
        if start >= self.num_prompt:
            return Chunk(self.slot, start, (self.token_ids[start],), (self.draw(0),))
        end = min((start + max_tokens) // multiple * multiple, self.num_prompt)
        is_drawn_from = end == len(self.token_ids) and self.request.max_new_tokens > 0
        draws = tuple(s.draw(end - start - 1) for s in (self, *self.followers)) if is_drawn_from else ()
        return Chunk(self.slot, start, tuple(self.token_ids[start:end]), draws, self._scores_of(start, end))

    def draw(self, row: int) -> Draw:
        request, num_generated = self.request, self.num_generated
        num_left, num_banned = request.max_new_tokens - num_generated, request.min_new_tokens - num_generated
        banned_ids: tuple[int, ...] = ()
        if num_banned > 0:
            banned_ids, num_left = self.end_ids, min(num_left, num_banned)
        return Draw(row, self.sampling, self.num_prompt, banned_ids, self.end_ids, num_left, request.mask, request.top_n)

    def append(self, *token_ids: int) -> FinishReason | None:
        """Take drawn tokens, of which the last alone can be an end; the result says whether, and why, it was the last of all."""
        self.token_ids += token_ids
        if (last := token_ids[-1]) in self.end_ids:
            return FinishReason.EOS if last in self.request.eos_token_ids else FinishReason.STOP
        return FinishReason.LENGTH if self.num_generated == self.request.max_new_tokens else None

    def _scores_of(self, start: int, end: int) -> Scores | None:
        """What a chunk of the prompt scores: each token after one of its rows, the last row's being the next chunk's first."""
        if self.scores is None:
            return None
        first = max(self.scores.first, start + 1)
        token_ids = tuple(self.token_ids[first : min(end + 1, self.num_prompt)])
        return Scores(first - 1 - start, token_ids, self.scores.top_n) if token_ids else None
