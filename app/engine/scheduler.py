"""Decides who runs in a step and in which cache slot. Pure bookkeeping over token ids: no tensors, no threads, no text."""

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from app.engine.sequence import Sequence
from app.engine.slots import PrefixCopy, SlotPool
from model.batch import Capabilities, ForwardBatch

MAX_DEFERRED = 64  # of those that wait for others' prompts, how many a step looks past; each takes some 10 microseconds


Group = tuple[Sequence, ...]  # the one that runs a chunk, then, where it draws, those that draw with it


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: prefix copies to do first, the batch, and whose each of its chunks is."""

    batch: ForwardBatch
    groups: tuple[Group, ...]
    copies: tuple[PrefixCopy, ...]


class Scheduler:
    """Continuous batching (Yu et al. 2022, "Orca", section 3.1): sequences join and leave between steps.

    All that decode run in every step. Prompts are prefilled in chunks, first come, first served, while the step stays within
    `max_batch_tokens`; `chunk_size` tokens of prompts may always run, so that nobody starves. Chunks end at its multiples, and
    prefixes are shared in whole chunks of prompts; a runner whose bits depend on no cut lifts both rules. A prompt is computed once
    for all that come while it is: equal ones draw from its last row, those that share a part of it start when that is there.
    """

    def __init__(self, num_slots: int, chunk_size: int, max_batch_tokens: int, capabilities: Capabilities) -> None:
        self.chunk_size, self.max_batch_tokens, self.capabilities = chunk_size, max_batch_tokens, capabilities
        self.slots = SlotPool(num_slots, self.multiple)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._worth_waiting: dict[tuple[Sequence, int], bool] = {}  # found out once a step

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
            if self._gather(leader, [sequence], now):
                return

    def schedule(self, now: float) -> Plan:
        """Plan a step: the decoding sequences, then as many chunks of prompts as its budget allows."""
        copies: list[PrefixCopy] = []
        self._worth_waiting.clear()
        work = [(s, s.next_chunk(1, 1)) for s in self.running if not s.is_prefilling]
        budget = max(self.max_batch_tokens - len(work), self.chunk_size)
        prefilling = deque(s for s in self.running if s.is_prefilling)
        is_decoding = not prefilling
        while budget >= self.multiple:
            sequence = prefilling.popleft() if prefilling else self._start_next(now, copies)
            if sequence is None:
                break
            is_decoding &= not sequence.is_prefilling
            chunk = sequence.next_chunk(budget if self.cut_freely else self.chunk_size, self.multiple)
            work.append((sequence, chunk))
            budget -= len(chunk.token_ids)
        batch = ForwardBatch(tuple(chunk for _, chunk in work), self.capabilities.num_steps if is_decoding else 1)
        return Plan(batch, tuple((s, *s.followers) if chunk.draws else (s,) for s, chunk in work), tuple(copies))

    def advance(self, sequence: Sequence, end: int) -> None:
        """Note that the sequence has been run up to a position; those that drew with its prompt go their own ways then."""
        assert sequence.slot is not None
        sequence.num_cached = end
        if self.cut_freely or end <= sequence.num_prompt:
            self.slots.record(sequence.slot, sequence.token_ids, end)
        if not sequence.is_prefilling:
            self._part(sequence)

    def finish(self, sequence: Sequence, trust_slot: bool = True) -> None:
        """Let go of a waiting or running sequence; its slot is free at once and keeps its contents if they are to be trusted."""
        self._part(sequence)
        if sequence.leader is not None:
            sequence.leader.followers.remove(sequence)
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        if not trust_slot:
            self.slots.forget(sequence.slot)
        self.slots.release(sequence.slot)

    def _start_next(self, now: float, copies: list[PrefixCopy]) -> Sequence | None:
        """The first of those who wait that can start, in a slot of its own."""
        if not self.slots.num_free:
            return None
        for i, sequence in enumerate(itertools.islice(self.waiting, MAX_DEFERRED + 1)):
            if not (sequence.leader or self._awaits_scores(sequence) or self._awaits_a_prefix(sequence)):
                del self.waiting[i]
                self._start(sequence, now, copies)
                return sequence
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
        return any(self._will_share(leader, sequence) for leader in self.running if leader.is_prefilling)

    def _will_share(self, leader: Sequence, sequence: Sequence) -> bool:
        length = self.slots.shareable(leader.token_ids, sequence.token_ids, min(leader.num_prompt, sequence.max_reused))
        if (known := self._worth_waiting.get((leader, length))) is None:
            # The same for everyone who shares so much with this leader.
            known = length > 0 and self.slots.longest_shared(leader.token_ids, length)[1] < length
            self._worth_waiting[leader, length] = known
        return known
