"""The state of one request inside the engine, and the values it exchanges with the outside. Token ids only."""

from dataclasses import dataclass, field
from enum import StrEnum

from model.batch import Chunk, Draw, SamplingParams


class FinishReason(StrEnum):
    """Why a sequence ended; the values are those of the HTTP contract."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What is asked of the engine: a prompt of at least one token, how to draw, and when to end.

    Prompt and new tokens together fit into the model's context. `eos_token_id` is None where the end token is an ordinary one;
    `arrived_at` is a time of the engine's clock, None for now.
    """

    sequence_id: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    eos_token_id: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    arrived_at: float | None = None


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One new token of a sequence; the last one carries the finish reason."""

    sequence_id: int
    token_id: int
    logprob: float
    finish_reason: FinishReason | None
    queue_seconds: float
    num_reused: int


@dataclass(frozen=True, slots=True)
class FailureOutput:
    """The end of a sequence that the engine could not carry on."""

    sequence_id: int
    message: str


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way: waiting without a slot, then running in one."""

    request: EngineRequest
    arrived_at: float
    token_ids: list[int] = field(init=False)
    slot: int | None = None
    started_at: float | None = None
    num_cached: int = 0  # positions whose keys and values are in the slot
    num_reused: int = 0  # of these, the ones that another request had computed

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_prefilling(self) -> bool:
        return self.num_cached < self.num_prompt

    @property
    def queue_seconds(self) -> float:
        assert self.started_at is not None
        return self.started_at - self.arrived_at

    def next_chunk(self, max_tokens: int, multiple: int) -> Chunk:
        """The next token to decode, or of the prompt at most `max_tokens`, to its end or to a multiple of `multiple`.

        With both at the prefill chunk's size cuts depend on the sequence alone; with a multiple of 1 the step decides.
        """
        assert self.slot is not None
        start = self.num_cached
        end = min((start + max_tokens) // multiple * multiple, self.num_prompt) if self.is_prefilling else start + 1
        draw = self._draw() if end == len(self.token_ids) else None
        return Chunk(self.slot, start, tuple(self.token_ids[start:end]), draw)

    def append(self, token_id: int) -> FinishReason | None:
        """Take a drawn token; the result says whether, and why, it was the last."""
        self.token_ids.append(token_id)
        if token_id == self.request.eos_token_id:
            return FinishReason.EOS
        if token_id in self.request.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_generated == self.request.max_new_tokens else None

    def _draw(self) -> Draw:
        sampling, banned = self.request.sampling, self._banned_ids()
        if not sampling.needs_history:
            return Draw(sampling, len(self.token_ids), banned_ids=banned)
        generated_ids = tuple(self.token_ids[self.num_prompt :])
        return Draw(sampling, len(self.token_ids), self.request.prompt_ids, generated_ids, banned)

    def _banned_ids(self) -> tuple[int, ...]:
        """What would end the sequence, as long as it is shorter than asked for."""
        if self.num_generated >= self.request.min_new_tokens:
            return ()
        eos = () if self.request.eos_token_id is None else (self.request.eos_token_id,)
        return (*eos, *sorted(self.request.stop_token_ids))
