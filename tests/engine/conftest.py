"""A runner in plain Python that remembers, position by position, how each slot's contents came about."""

import threading
import zlib
from collections.abc import Callable

import pytest

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Capabilities,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    Launched,
    SampledToken,
    ScoredToken,
    StepOutput,
)
from model.steps import run_steps

# What a position's keys and values depend on in a real runner: the chunks (start, token ids) up to the one that computed it.
History = tuple[tuple[int, tuple[int, ...]], ...]


class MisuseError(BaseException):
    """The engine asked for what no runner could do right. Not an Exception, which would count as a failed step and no more."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise MisuseError(message)


def number(value: object) -> int:
    return zlib.crc32(repr(value).encode())


class Done:
    def __init__(self, output: StepOutput) -> None:
        self._output = output

    def collect(self) -> StepOutput:
        return self._output


class UnderWay:
    """A step that is computed while it is waited for, so that everything that happens before that happens while it runs."""

    def __init__(self, runner: "FakeRunner", batch: ForwardBatch) -> None:
        self._runner, self._batch = runner, batch

    def collect(self) -> StepOutput:
        require(self._runner.under_way is self, "a step is collected twice or out of order")
        self._runner.under_way = None
        self._runner.calls.append("collect")
        return self._runner.compute(self._batch)


class FakeRunner:
    """Draws tokens that depend on the exact history of a slot, so that any wrong reuse shows in the text.

    `fail_next` makes the next call of that name raise, after it has spoilt what it would have written; "memory" is an "execute"
    that runs out of it. `num_spared` calls go well before that. Steps of more than `max_tokens` run out of memory, too. Steps with
    a chunk of `bad_slots`, or with a draw of `bad_seeds`, raise whenever they run, and so do copies into `bad_slots`. The next
    chunks of `nan_slots` compute what is not a number. `may_run` holds steps back while it is not set.
    """

    def __init__(
        self,
        num_slots: int = 4,
        max_positions: int = 256,
        vocab_size: int = 50,
        exact_at_any_cut: bool = False,
        max_draws: int = 16,
        num_steps: int = 1,
        is_asynchronous: bool = False,
    ) -> None:
        self.capabilities = Capabilities(exact_at_any_cut, max_draws, num_steps, is_asynchronous)
        self.num_slots, self.max_positions, self.vocab_size = num_slots, max_positions, vocab_size
        self.contents: list[list[History | None]] = [[None] * max_positions for _ in range(num_slots)]
        self.batches: list[ForwardBatch] = []
        self.copies: list[tuple[int, int, int]] = []
        self.calls: list[str] = []
        self.under_way: UnderWay | None = None
        self.fail_next: str | None = None
        self.num_spared = 0
        self.max_tokens: int | None = None
        self.bad_slots: set[int] = set()
        self.bad_seeds: set[int] = set()
        self.nan_slots: set[int] = set()
        self.may_run = threading.Event()
        self.may_run.set()
        self.is_held = threading.Event()

    def hold(self) -> None:
        self.may_run.clear()
        self.is_held.clear()

    def launch(self, batch: ForwardBatch) -> Launched:
        require(self.under_way is None, "a step is launched while another is under way")
        self.calls.append("launch")
        if self._fails("launch"):
            raise MemoryError("no room to launch")
        if not self.capabilities.is_asynchronous:
            return Done(self.compute(batch))
        self.under_way = UnderWay(self, batch)
        return self.under_way

    def compute(self, batch: ForwardBatch) -> StepOutput:
        return run_steps(self.execute, batch)

    def execute(self, batch: ForwardBatch) -> StepOutput:
        if not self.may_run.is_set():
            self.is_held.set()
            require(self.may_run.wait(60), "the test holds the runner back for ever")
        slots = [chunk.slot for chunk in batch.chunks]
        require(len(set(slots)) == len(slots), "two chunks for one slot")
        self.batches.append(batch)
        is_bad = any(chunk.slot in self.bad_slots or self.bad_seeds & _seeds_of(chunk) for chunk in batch.chunks)
        failing = self._fails("execute") or is_bad
        has_no_room = self._fails("memory") or (self.max_tokens is not None and batch.num_tokens > self.max_tokens)
        outputs = tuple(self._run(chunk, failing or has_no_room) for chunk in batch.chunks)
        if failing:
            raise RuntimeError("a bad row" if is_bad else "a bad moment")
        if has_no_room:
            raise MemoryError("no room to compute")
        return StepOutput(outputs)

    def warm_up(self) -> None:
        self.under_way = None

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        require(source != target, "a slot is copied to itself")
        require(self.under_way is None, "a slot is copied while a step is under way")
        self.copies.append((source, target, length))
        self.history(source, length)
        failing = self._fails("copy_prefix") or target in self.bad_slots
        self.contents[target][:length] = [None] * length if failing else self.contents[source][:length]
        if failing:
            raise RuntimeError("the copy failed")

    def history(self, slot: int, length: int) -> History:
        """How positions [0, length) of a slot were computed; they must be whole chunks, each computed upon the one before."""
        contents = self.contents[slot][:length]
        history = contents[-1] if contents else ()
        if history is None:
            raise MisuseError("a position is read that nobody has written")
        for i, (start, token_ids) in enumerate(history, 1):
            end = start + len(token_ids)
            require(contents[start:end] == [history[:i]] * len(token_ids), "a position was computed from another prefix")
        require(not history or end == length, "a chunk is read in part")
        return history

    def _run(self, chunk: Chunk, failing: bool) -> ChunkOutput:
        require(0 < len(chunk.token_ids) <= self.max_positions - chunk.start, "a chunk is empty or too long")
        require(len(chunk.draws) <= self.capabilities.max_draws, "a chunk has too many draws")
        history = self.history(chunk.slot, chunk.start)
        is_nan = chunk.slot in self.nan_slots
        histories = []  # up to each of the chunk's rows
        for start, token_ids in self._pieces(chunk):
            history = (*history, (start, token_ids))
            histories += [history] * len(token_ids)
            contents = None if failing or is_nan else history
            self.contents[chunk.slot][start : start + len(token_ids)] = [contents] * len(token_ids)
        self.nan_slots.discard(chunk.slot)
        if is_nan:
            return ChunkOutput(error=NOT_FINITE)
        drawn = [self._draw(histories[draw.row], draw) for draw in chunk.draws]
        if None in drawn:
            return ChunkOutput(error=NOTHING_TO_DRAW)
        tokens = tuple((SampledToken(token_id, -1.0),) for token_id in drawn)
        scored = enumerate(chunk.scores.token_ids, chunk.scores.first_row) if chunk.scores else ()
        return ChunkOutput(tokens, tuple(ScoredToken(-number((histories[row], token_id)) / 2**32) for row, token_id in scored))

    def _draw(self, history: History, draw: Draw) -> int | None:
        masked = [i for i in range(self.vocab_size) if draw.mask and not draw.mask.bits[i // 8] >> i % 8 & 1]
        allowed = [i for i in range(self.vocab_size) if i not in draw.banned_ids and i not in masked]
        asked = (history, draw.params, draw.num_prompt, draw.banned_ids)
        return allowed[number(asked) % len(allowed)] if allowed else None

    def _pieces(self, chunk: Chunk) -> History:
        """The chunk as a whole, or token by token for a runner that cuts do not matter to."""
        if not self.capabilities.exact_at_any_cut:
            return ((chunk.start, chunk.token_ids),)
        return tuple((chunk.start + i, (token_id,)) for i, token_id in enumerate(chunk.token_ids))

    def _fails(self, name: str) -> bool:
        if self.fail_next != name:
            return False
        if self.num_spared:
            self.num_spared -= 1
            return False
        self.fail_next = None
        return True


def _seeds_of(chunk: Chunk) -> set[int]:
    return {draw.params.seed for draw in chunk.draws}


@pytest.fixture(scope="session")
def make_runner() -> Callable[..., FakeRunner]:
    return FakeRunner
