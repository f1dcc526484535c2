"""What crosses the border between the engine and a runner: plain frozen values of plain integers and floats, fit to be pickled.

No torch here, and nothing of app/. What will ever be asked of a step crosses here: tokens that enter a slot, draws after any of
them, the log-probabilities of given tokens, several steps in one call. What comes back is an output for each chunk. Values of which
every step makes many are named tuples: those cost a third of a frozen dataclass.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol


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

    def of_sample(self, index: int) -> "SamplingParams":
        """Those of one of several samples: it draws with a seed of its own."""
        return replace(self, seed=(self.seed + index) % 2**64)

    @property
    def penalises(self) -> bool:
        """Whether the tokens that came before change what is drawn."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TokenMask:
    """The tokens that may be drawn: bit i % 8 of byte i // 8 is token i's; of a vocabulary of V, -(-V // 8) bytes.

    Equal masks are one to a runner, which may keep what it has made of one.
    """

    bits: bytes

    @staticmethod
    def of(allowed_ids: tuple[int, ...], vocab_size: int) -> "TokenMask":
        bits = bytearray(-(-vocab_size // 8))
        for token_id in allowed_ids:
            bits[token_id // 8] |= 1 << token_id % 8
        return TokenMask(bytes(bits))


class Draw(NamedTuple):
    """A token to be drawn after row `row` of its chunk; its random number is that of the seed and its position.

    Penalties look at the slot's tokens up to that row, of which the first `num_prompt` are the prompt's. `banned_ids` cannot be
    drawn, nor what `mask` leaves out. `top_n` of the likeliest tokens are told beside the drawn one. Where a batch has several
    steps, a draw that goes on ends with the first of `end_ids` or with its `max_new`-th token.
    """

    row: int
    params: SamplingParams
    num_prompt: int = 0
    banned_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    max_new: int = 1
    mask: TokenMask | None = None
    top_n: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """The log-probability of token_ids[i] after row first_row + i of its chunk, and the `top_n` likeliest tokens there."""

    first_row: int
    token_ids: tuple[int, ...]
    top_n: int = 0


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence: they enter cache slot `slot` at positions start, start + 1, ...

    A slot's positions below `start` have been run or copied before. Several draws of one row are several samples of one prompt.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    draws: tuple[Draw, ...] = ()
    scores: Scores | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def goes_on(self) -> bool:
        """Whether further steps of its batch draw more: with one draw, after the last row."""
        return len(self.draws) == 1 and self.draws[0].row == len(self.token_ids) - 1


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One call's work: at most one chunk a slot.

    With `num_steps` above 1 the runner goes on by itself with chunks that have one draw, after their last row: a drawn token
    enters the slot behind its chunk and another is drawn, until the draw ends. The others take part in the first step alone.
    """

    chunks: tuple[Chunk, ...]
    num_steps: int = 1

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)


Top = tuple[tuple[int, float], ...]  # token ids and their log-probabilities, the likeliest first, among equals the lower id


class SampledToken(NamedTuple):
    """A drawn token and its log-probability in the model's own distribution, before temperature, penalties, bans and filters."""

    token_id: int
    logprob: float
    top: Top = ()


class ScoredToken(NamedTuple):
    """The log-probability of a token that was given, and the likeliest at its place."""

    logprob: float
    top: Top = ()


class ChunkOutput(NamedTuple):
    """What came of a chunk: `tokens` of each draw, in the order of the steps, and a score for each of the scores' token ids.

    With an `error`, a sentence, there is nothing else, and nothing that the slot holds from the chunk's start on is to be trusted.
    """

    tokens: tuple[tuple[SampledToken, ...], ...] = ()
    scores: tuple[ScoredToken, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """An output for each of the batch's chunks, in their order."""

    chunks: tuple[ChunkOutput, ...]


NOT_FINITE = "the model computed a value that is not a number"
NOTHING_TO_DRAW = "nothing is left that may be drawn"


class OutputMismatch(Exception):
    """A runner answered something else than it was asked for."""


class RunnerLost(Exception):
    """The runner can compute nothing more in this process, as when its context on the device is gone."""


def check_output(batch: ForwardBatch, output: StepOutput) -> None:
    """Raise OutputMismatch unless the output has exactly what the batch asks for."""
    if len(output.chunks) != len(batch.chunks):
        raise OutputMismatch(f"the runner answered {len(output.chunks)} of {len(batch.chunks)} chunks")
    num_steps = batch.num_steps
    for chunk, out in zip(batch.chunks, output.chunks, strict=True):
        if out.error is not None:
            continue
        wanted = len(chunk.scores.token_ids) if chunk.scores else 0
        if len(out.tokens) != len(chunk.draws) or len(out.scores) != wanted:
            raise OutputMismatch(
                f"the runner answered {len(out.tokens)} draws and {len(out.scores)} scores of a chunk with {len(chunk.draws)} and "
                f"{wanted}"
            )
        most = num_steps if num_steps > 1 and chunk.goes_on else 1
        for draw, tokens in zip(chunk.draws, out.tokens, strict=True):
            if len(tokens) != (1 if most == 1 else _num_wanted(draw, tokens, most)):
                raise OutputMismatch(f"the runner answered {len(tokens)} tokens of a draw in {most} steps")


def _num_wanted(draw: Draw, tokens: tuple[SampledToken, ...], num_steps: int) -> int:
    most, end_ids = min(num_steps, draw.max_new), draw.end_ids
    if end_ids:
        for i, (token_id, _, _) in enumerate(tokens[:most], start=1):
            if token_id in end_ids:
                return i
    return most


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runner can do, and what it gains by.

    `exact_at_any_cut`: a position's bits are the same however its prompt is cut into chunks, decoded instead, or copied from a
    slot. `max_draws` of one chunk. `num_steps` in one call pay; more work all the same. `is_asynchronous`: a launch returns while
    the step still runs.
    """

    exact_at_any_cut: bool
    max_draws: int
    num_steps: int = 1
    is_asynchronous: bool = False


class Launched(Protocol):
    """A batch under way."""

    def collect(self) -> StepOutput:
        """Wait for it; called once, in the order of the launches."""


class Runner(Protocol):
    """Carries out steps. The seam for speed: how keys, values and logits are kept is a runner's own affair.

    It knows the tokens of its slots, since it has run them. It carries out what it is told in the order in which it is told.
    An Exception, from `launch` or from `collect`, leaves whatever the slots held before the batch's chunks as it was: the same
    can be asked again, in parts: some of its chunks, some of a chunk's draws, after a MemoryError shorter ones too. A prefix may be
    copied again while its source holds it. RunnerLost may come from anywhere, and ends all that.
    """

    @property
    def num_slots(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def launch(self, batch: ForwardBatch) -> Launched:
        """Begin to run the chunks; on a CPU all is done when this returns."""

    def warm_up(self) -> None:
        """Do once what the first step would otherwise have to wait for; called on the thread that will launch steps.

        Whoever calls it begins anew: nothing that slots held counts any more, and what is still under way will not be collected.
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Make positions [0, length) of slot `target` those of slot `source`."""
