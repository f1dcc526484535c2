"""Shares what steps take among the sequences that they run, by their tokens. Knows counts and seconds, no prices.

A sum runs on from step to step, as the rounds of fair queueing do (Demers et al. 1989, "Analysis and Simulation of a Fair Queueing
Algorithm"): what one owes who has decoded in every step so far. Who decodes since then owes what it has grown by, so that to share
a step of many takes no longer than one of few.
"""

from app.engine.scheduler import Plan
from app.engine.sequence import Sequence
from app.engine.step import Step
from app.engine.work import NO_WORK, Share, Work
from model.batch import Chunk


class Meter:
    """Every second of every step is owed by somebody, and nobody owes for a step in which it did not run."""

    def __init__(self) -> None:
        # Of who has decoded in every step so far; apart, since a value of three would have to be made in each.
        self._num_passes = self._num_head_passes = self._seconds = 0.0
        self._uncounted_seconds, self._uncounted = 0.0, NO_WORK

    @property
    def _decoding(self) -> Share:
        return Share(self._num_passes, self._num_head_passes, self._seconds)

    def open(self, plan: Plan) -> None:
        """Note where those begin who have got their slots."""
        copied = {copy.target: copy.length for copy in plan.copies}
        for sequence in plan.started:
            assert sequence.slot is not None
            account = sequence.account
            account.first, account.num_given, account.since = sequence.num_cached, sequence.num_generated, self._decoding
            account.num_copied = copied.get(sequence.slot, 0)

    def charge(self, step: Step, seconds: float) -> None:
        """Share a step: each row has as many parts of it as tokens, those of all steps of the call in which it may go on."""
        plan, num_decoding = step.plan, step.num_decoding
        num_steps = plan.batch.num_steps
        num_parts, num_head_passes = num_decoding * num_steps, num_steps if num_decoding else 0
        for _, chunk in step.prefills:
            num_parts += _num_parts(chunk, num_steps)
            if chunk.draws or chunk.scores:
                num_head_passes = num_steps
        if not num_parts:
            return
        self._uncounted_seconds += seconds
        if num_decoding:
            part = num_steps / num_parts
            self._num_passes += num_steps * part
            self._num_head_passes += num_head_passes * part
            self._seconds += seconds * part
        if step.prefills or plan.idle:
            self._charge_others(step, Share(num_steps, num_head_passes, seconds), num_parts)

    def _charge_others(self, step: Step, whole: Share, num_parts: int) -> None:
        """Let the prompts' chunks pay, and those who sat it out not."""
        num_steps, decoding = step.plan.batch.num_steps, self._decoding
        for (owner, *_), chunk in step.prefills:
            account = owner.account
            account.prefilled = account.prefilled.plus(whole.times(_num_parts(chunk, num_steps) / num_parts))
            account.num_read += chunk.end
            account.since = decoding  # in case this was its last one
        for sequence in step.plan.idle if step.num_decoding else ():
            sequence.account.since = sequence.account.since.plus(whole.times(num_steps / num_parts))

    def work_of(self, sequence: Sequence) -> Work:
        """What a sequence has taken so far: nothing before it has a slot, though another's row may have drawn its first token."""
        if sequence.slot is None:
            return NO_WORK
        account, end = sequence.account, sequence.num_cached
        share = account.prefilled
        if not sequence.is_prefilling:
            share = share.plus(self._decoding).plus(account.since.times(-1))
        return Work(
            num_tokens=end - account.first,
            num_attended=_attended(account.first, end),
            num_read=account.num_read + _attended(min(max(account.first, sequence.num_prompt), end), end),
            num_heads=sequence.num_scored + sequence.num_generated - account.num_given,
            num_copied=account.num_copied,
            share=share,
        )

    def close(self, sequence: Sequence) -> None:
        """Count what a sequence has taken that ends, however that is."""
        self._uncounted = self._uncounted.plus(self.work_of(sequence))

    def take(self) -> tuple[float, Work]:
        """Since this was last asked: the steps' seconds, and what those have taken who have ended."""
        taken = self._uncounted_seconds, self._uncounted
        self._uncounted_seconds, self._uncounted = 0.0, NO_WORK
        return taken


def _attended(first: int, end: int) -> int:
    """Positions that those from `first` up to `end` look at, each at itself and at all before it."""
    return (end * (end + 1) - first * (first + 1)) // 2


def _num_parts(chunk: Chunk, num_steps: int) -> int:
    return len(chunk.token_ids) + (num_steps - 1 if chunk.goes_on else 0)
