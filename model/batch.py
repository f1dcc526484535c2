"""What crosses the border between the engine and a runner: plain values of plain integers. No torch here, and nothing of app/."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token of one sequence is drawn; the defaults leave the model's own distribution and take its maximum.

    temperature 0 is greedy. top_k 0, top_p 1, min_p 0, typical_p 1, repetition_penalty 1 and the two penalties 0 are off.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def needs_history(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to be sampled: the parameters and all of a sequence's past that they look at.

    `prompt_ids` and `generated_ids` are filled for rows whose penalties need them; `banned_ids` cannot be drawn (the end token,
    while fewer than the minimum of new tokens exist).
    """

    params: SamplingParams
    position: int
    prompt_ids: tuple[int, ...] = ()
    generated_ids: tuple[int, ...] = ()
    banned_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence: they enter cache slot `slot` at positions start, start + 1, ...

    With `draw`, the token after the last of them is sampled.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    draw: Draw | None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step's work: at most one chunk a slot."""

    chunks: tuple[Chunk, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A drawn token and its log-probability in the model's own distribution, before temperature, penalties and filters."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The drawn tokens, one for each of the batch's chunks that has a draw, in their order."""

    tokens: tuple[SampledToken, ...]


class Runner(Protocol):
    """Carries out steps. The seam for speed: how keys, values and logits are kept is a runner's own affair."""

    @property
    def num_slots(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def exact_at_any_cut(self) -> bool:
        """Whether a position's bits are the same however its prompt is cut into chunks, decoded instead, or copied from a slot."""

    def execute(self, batch: ForwardBatch) -> StepOutput:
        """Run the chunks and draw; a slot's positions below a chunk's start must have been run or copied before."""

    def warm_up(self) -> None:
        """Do once what the first step would otherwise have to wait for; called on the thread that will execute steps."""

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make positions [0, length) of slot `target` those of slot `source`."""
