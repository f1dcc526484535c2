"""What the engine's accounts cost: a step of 32 sequences that decode, with the meter and with one that keeps none.

    python -m benchmarks.metering

At most 1 % wanted. It is processor time, beside a runner that computes nothing; the smallest of many rounds, which take turns.
"""

import time

from app.engine.engine import Engine
from app.engine.meter import Meter
from app.engine.scheduler import Plan, Scheduler
from app.engine.sequence import EngineRequest, Sequence
from app.engine.step import Step
from app.engine.work import NO_WORK, Work
from model.batch import Capabilities, ChunkOutput, ForwardBatch, SampledToken, SamplingParams, StepOutput
from model.steps import Done

NUM_SEQUENCES, NUM_ROUNDS, NUM_STEPS = 32, 200, 100
TOKENS = ((SampledToken(7, -1.0),),)


class IdleRunner:
    """Answers at once."""

    capabilities = Capabilities(exact_at_any_cut=True, max_draws=16)
    num_slots, max_positions, vocab_size = NUM_SEQUENCES, 1 << 20, 50

    def launch(self, batch: ForwardBatch) -> Done:
        return Done(StepOutput((ChunkOutput(TOKENS),) * len(batch.chunks)))

    def warm_up(self) -> None: ...

    def copy_prefix(self, source: int, target: int, length: int) -> None: ...


class NoMeter(Meter):
    def open(self, plan: Plan) -> None: ...

    def charge(self, step: Step, seconds: float) -> None: ...

    def close(self, sequence: Sequence) -> None: ...

    def take(self) -> tuple[float, Work]:
        return 0.0, NO_WORK


def engine_with(meter: Meter) -> Engine:
    runner = IdleRunner()
    engine = Engine(runner, Scheduler(NUM_SEQUENCES, 128, 256, runner.capabilities))
    engine._meter = meter
    for i in range(NUM_SEQUENCES):
        engine.submit(i, EngineRequest((i, 2, 3), SamplingParams(), NUM_ROUNDS * NUM_STEPS * 2))
    engine.step()
    return engine


def microseconds(engine: Engine) -> float:
    started = time.process_time()
    for _ in range(NUM_STEPS):
        engine.step()
    return 1e6 * (time.process_time() - started) / NUM_STEPS


def main() -> None:
    engines = engine_with(NoMeter()), engine_with(Meter())
    rounds = [[microseconds(engine) for engine in engines] for _ in range(NUM_ROUNDS)]
    without, with_meter = map(min, zip(*rounds, strict=True))
    print(f"a step of {NUM_SEQUENCES}: {without:.1f} us without accounts, {with_meter:.1f} with, {with_meter / without - 1:+.2%}")


if __name__ == "__main__":
    main()
