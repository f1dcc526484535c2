"""Decides who runs in a step and in which cache slot. Pure bookkeeping over token ids: no tensors, no threads, no text."""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.engine.room import Room
from app.engine.sequence import Sequence
from app.engine.slots import PrefixCopy, SlotPool
from model.batch import Capabilities, Chunk, ForwardBatch

MAX_DEFERRED = (
    64  # of those that wait for others' prompts, how many a step looks past; each takes some 20 microseconds with 256 running
)
# Rows for each step of a call that somebody waits for. A call costs the host some 30 microseconds a row, whose tokens are brought
# to their reader together, and 6 a token; a card takes 450 a step and 6 more a row. With fewer steps than this the card would wait.
ROWS_A_STEP = 8
# Where all decode: as many for this number of rows and less. They take a card 4 ms, for which who comes meanwhile waits, and more
# would spare its host little.
FEW_ROWS, STEPS_OF_FEW = 16, 8

Work = list[tuple[Sequence, Chunk]]
Group = tuple[Sequence, ...]  # the one that runs a chunk, then, where it draws, those that draw with it


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefix copies to do first, the batch, and whose each of its chunks is.

    `started` have got their slots for it; `idle` have slots too and sit it out, of those that decode while memory is short.
    """

    batch: ForwardBatch
    groups: tuple[Group, ...]
    copies: tuple[PrefixCopy, ...]
    started: tuple[Sequence, ...] = ()
    idle: tuple[Sequence, ...] = ()


class Scheduler:
    """Continuous batching (Yu et al. 2022, "Orca", section 3.1): sequences join and leave between steps.

    All that decode run in every step. Prompts are prefilled in chunks, first come, first served, while the step stays within
    `max_batch_tokens`; `chunk_size` tokens of prompts may always run, so that nobody starves. Chunks end at its multiples, and
    prefixes are shared in whole chunks of prompts; a runner whose bits depend on no cut lifts both rules. A prompt is computed once
    for all that come while it is: equal ones draw from its last row, those that share a part of it start when that is there.
    While the device is short of memory, all that run take turns.
    """

    def __init__(self, num_slots: int, chunk_size: int, max_batch_tokens: int, capabilities: Capabilities) -> None:
        self.chunk_size, self.max_batch_tokens, self.capabilities = chunk_size, max_batch_tokens, capabilities
        self.rows_a_step = ROWS_A_STEP
        self.slots = SlotPool(num_slots, self.multiple)
        self.room = Room(max(max_batch_tokens, num_slots + chunk_size))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        # Found out once a step.
        self._prefilling: list[Sequence] = []
        self._worth_waiting: dict[tuple[Sequence, int], bool] = {}
        self._num_deferred = 0  # those first in line that cannot start yet
        self._started: list[Sequence] = []

    @property
    def cut_freely(self) -> bool:
        return self.capabilities.exact_at_any_cut

    @property
    def multiple(self) -> int:
        """Of what a chunk's end and a shared prefix's length are multiples."""
        return 1 if self.cut_freely else self.chunk_size

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, sequence: Sequence, now: float) -> None:
        self.waiting.append(sequence)
        for leader in self.running:
            if leader.is_prefilling and self._gather(leader, [sequence], now):
                return

    def schedule(self, now: float) -> Plan:
        """Plan a step; what is planned is to be carried out before the next one is."""
        copies: list[PrefixCopy] = []
        self._prefilling = [s for s in self.running if s.is_prefilling]
        self._worth_waiting.clear()
        self._num_deferred = 0
        self._started.clear()
        self.room.grow(now)
        work = self._fill(now, copies) if self.room.limit is None else self._take_turns(self.room.limit, now, copies)
        batch = ForwardBatch(tuple(chunk for _, chunk in work), self._num_steps(work))
        groups = tuple((s, *s.followers) if chunk.draws else (s,) for s, chunk in work)
        return Plan(batch, groups, tuple(copies), tuple(self._started), () if self.room.limit is None else self._idle(work))

    def can_be_smaller(self, batch: ForwardBatch) -> bool:
        """Whether the same could be done in several smaller calls."""
        return len(batch.chunks) > 1 or batch.num_steps > 1 or (self.cut_freely and batch.num_tokens > 1)

    def advance(self, sequence: Sequence, end: int) -> None:
        """Note that the sequence has been run up to a position; those that drew with its prompt go their own ways then."""
        assert sequence.slot is not None
        was_prefilling, sequence.num_cached = sequence.is_prefilling, end
        if self.cut_freely:
            self.slots.record(sequence.slot, sequence.token_ids, end)
        elif was_prefilling:
            self.slots.record(sequence.slot, sequence.token_ids, min(end, sequence.num_prompt))
        if not sequence.is_prefilling:
            self._part(sequence)

    def distrust(self, sequence: Sequence) -> None:
        """Share nothing more of a sequence's slot, whose contents an error has spoilt."""
        assert sequence.slot is not None
        self.slots.forget(sequence.slot)

    def finish(self, sequence: Sequence) -> None:
        """Let go of a waiting or running sequence; its slot is free at once, also while a step that uses it is under way."""
        sequence.has_ended = True
        self._part(sequence)
        if sequence.leader is not None:
            sequence.leader.followers.remove(sequence)
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.slots.release(sequence.slot)

    def _fill(self, now: float, copies: list[PrefixCopy]) -> Work:
        """The decoding sequences, then as many chunks of prompts as the step's budget allows."""
        work = [(s, s.next_chunk(1, 1)) for s in self.running if not s.is_prefilling]
        budget = max(self.max_batch_tokens - len(work), self.chunk_size)
        prefilling = deque(self._prefilling)
        while budget >= self.multiple:
            sequence = prefilling.popleft() if prefilling else self._start_next(now, copies)
            if sequence is None:
                break
            work.append((sequence, self._next_chunk(sequence, budget)))
            budget -= len(work[-1][1].token_ids)
        return work

    def _take_turns(self, room: int, now: float, copies: list[PrefixCopy]) -> Work:
        """What `room` tokens allow, one chunk at least: of those who run, the longest idle first, then of those who wait."""
        work: Work = []
        for sequence in self.running:
            if room <= 0:
                break
            chunk = self._next_chunk(sequence, room)
            if not work or len(chunk.token_ids) <= room:
                work.append((sequence, chunk))
                room -= len(chunk.token_ids)
        while (room >= self.multiple or not work) and (started := self._start_next(now, copies)):
            work.append((started, self._next_chunk(started, room)))
            room -= len(work[-1][1].token_ids)
        ran = {sequence for sequence, _ in work}
        self.running.sort(key=ran.__contains__)  # they go to the end of the line
        return work

    def _idle(self, work: Work) -> tuple[Sequence, ...]:
        ran = {sequence for sequence, _ in work}
        return tuple(s for s in self.running if not s.is_prefilling and s not in ran)

    def _next_chunk(self, sequence: Sequence, budget: int) -> Chunk:
        return sequence.next_chunk(budget if self.cut_freely else self.chunk_size, self.multiple)

    def _num_steps(self, work: Work) -> int:
        """Steps in one call, none in which nobody draws.

        As many as the runner gains by where many decode. Where prompts end, whose first tokens are told when the call is done, or
        somebody waits for a slot, as few as the host can keep up with: one for few rows. One where the next call can do more for
        prompts than this one, and while the device is short of memory.
        """
        most = self.capabilities.num_steps
        if most == 1 or self.room.limit is not None or self._is_pressed(work):
            return 1
        if self._prefilling or self.waiting:
            most = min(most, max(len(work) // self.rows_a_step, 1))
        elif len(work) <= FEW_ROWS:
            most = min(most, STEPS_OF_FEW)
        return min(most, max((chunk.draws[0].max_new for _, chunk in work if len(chunk.draws) == 1), default=1))

    def _is_pressed(self, work: Work) -> bool:
        """Whether prompts go on in the next call, or somebody can start there."""
        if self.waiting and self.slots.num_free:
            return True
        return bool(self._prefilling) and len(self._prefilling) > sum(c.start < s.num_prompt <= c.end for s, c in work)

    def _start_next(self, now: float, copies: list[PrefixCopy]) -> Sequence | None:
        """The first of those who wait that can start, in a slot of its own."""
        if not self.slots.num_free:
            return None
        while self._num_deferred < min(len(self.waiting), MAX_DEFERRED + 1):
            sequence = self.waiting[self._num_deferred]
            if not (sequence.leader or self._awaits_scores(sequence) or self._awaits_a_prefix(sequence)):
                del self.waiting[self._num_deferred]
                self._start(sequence, now, copies)
                return sequence
            self._num_deferred += 1  # nothing that it waits for comes before the step has run
        return None

    def _start(self, sequence: Sequence, now: float, copies: list[PrefixCopy]) -> None:
        is_fork = sequence.num_generated > 0
        acquired = self.slots.acquire(sequence.token_ids, sequence.max_reused, is_fork)
        sequence.slot, sequence.num_cached = acquired.slot, acquired.num_reused
        if not is_fork:
            sequence.started_at, sequence.num_reused = now, acquired.num_reused
            self._gather(sequence, self.waiting, now)
        if acquired.copy:
            copies.append(acquired.copy)
        self.running.append(sequence)
        self._started.append(sequence)
        if sequence.is_prefilling:
            self._prefilling.append(sequence)

    def _gather(self, leader: Sequence, candidates: Iterable[Sequence], now: float) -> int:
        """Let those whose prompt is the leader's draw from its last row, as far as the runner can; how many these are."""
        room = self.capabilities.max_draws - 1 - len(leader.followers)
        joining = list(itertools.islice((s for s in candidates if s.can_follow(leader)), max(room, 0)))
        for sequence in joining:
            sequence.leader, sequence.started_at, sequence.num_reused = leader, now, sequence.num_prompt
        leader.followers += joining
        return len(joining)

    def _part(self, leader: Sequence) -> None:
        for follower in leader.followers:
            follower.leader = None
        leader.followers.clear()

    def _awaits_scores(self, sequence: Sequence) -> bool:
        """Whether the prompt's scores, which come before all tokens of a request, are yet to come from its first sample."""
        if sequence.request.scores is None or sequence.sample == 0:
            return False
        others = itertools.chain(self.running, self.waiting)
        return any(s.request_id == sequence.request_id and s.sample == 0 and s.is_prefilling for s in others)

    def _awaits_a_prefix(self, sequence: Sequence) -> bool:
        """Whether a prompt that is being computed will soon share more with this one than any slot does now."""
        if sequence.num_generated:
            return False
        return any(self._will_share(leader, sequence) for leader in self._prefilling)

    def _will_share(self, leader: Sequence, sequence: Sequence) -> bool:
        length = self.slots.shareable(leader.token_ids, sequence.token_ids, min(leader.num_prompt, sequence.max_reused))
        if (known := self._worth_waiting.get((leader, length))) is None:
            # The same for everyone who shares so much with this leader.
            known = length > 0 and self.slots.longest_shared(leader.token_ids, length)[1] < length
            self._worth_waiting[leader, length] = known
        return known
