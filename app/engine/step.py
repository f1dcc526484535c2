"""A step on its way through the runner: launched, then waited for. An error is a result like another."""

from collections.abc import Callable

from app.engine.isolation import Isolation, copy_again
from app.engine.scheduler import Group, Plan
from model.batch import Chunk, ForwardBatch, Launched, Runner, RunnerLost, StepOutput, check_output

FEW = 8  # sequences: to launch their next step takes as long as to compute a good part of it


class Step:
    """One plan and what comes of it."""

    def __init__(self, plan: Plan, started: float) -> None:
        self.plan, self.started = plan, started
        pairs = zip(plan.groups, plan.batch.chunks, strict=True)
        self.prefills = [(group, chunk) for group, chunk in pairs if chunk.start < group[0].num_prompt]
        self.num_reused = _num_reused(self.prefills)
        self._is_prepared = False
        self._launched: Launched | None = None
        self._result: StepOutput | Exception | None = None if plan.groups else StepOutput(())

    def launch(self, runner: Runner) -> None:
        """Set the runner to work, if there is any."""
        if not self.plan.groups:
            return
        try:
            for copy in self.plan.copies:
                runner.copy_prefix(copy.source, copy.target, copy.length)
            self._is_prepared = True
            self._launched = runner.launch(self.plan.batch)
        except Exception as error:
            self._result = error

    def wait(self) -> StepOutput | Exception:
        """What the runner answers, or the exception that it raised instead; RunnerLost alone is raised."""
        if self._result is None:
            self._result = self._collect()
        if isinstance(self._result, RunnerLost):
            raise self._result
        return self._result

    @property
    def num_decoding(self) -> int:
        """Its other chunks are of prompts."""
        return len(self.plan.groups) - len(self.prefills)

    @property
    def found_no_memory(self) -> bool:
        """Whether the batch did, whose work is left as it was; prefixes that were not copied are not there."""
        return self._is_prepared and isinstance(self._result, MemoryError)

    @property
    def is_urgent(self) -> bool:
        """Whether its outputs are to be told before the next step is launched: first tokens, for which a device may well wait."""
        return len(self.plan.groups) <= FEW and any(chunk.draws for _, chunk in self.prefills)

    def run_again(self, runner: Runner, can_be_smaller: Callable[[ForwardBatch], bool]) -> Isolation:
        """Do it in parts after an exception, which has spoilt no more than what it was to write. Nothing else is under way."""
        spoilt = {} if self._is_prepared else copy_again(runner, self.plan.copies)
        return Isolation(runner, self.plan.batch, spoilt, can_be_smaller)

    def _collect(self) -> StepOutput | Exception:
        assert self._launched is not None, "a step is launched before it is waited for"
        try:
            output = self._launched.collect()
            check_output(self.plan.batch, output)
        except Exception as error:
            return error
        return output


def _num_reused(prefills: list[tuple[Group, Chunk]]) -> int:
    """Prompt tokens that a step takes from what was computed for somebody else."""
    num_reused = 0
    for (owner, *followers), chunk in prefills:
        if not owner.num_generated and chunk.start == owner.num_reused:
            num_reused += owner.num_reused
        num_reused += sum(follower.num_reused for follower in followers)
    return num_reused


NO_STEP = Step(Plan(ForwardBatch(()), (), ()), 0.0)
