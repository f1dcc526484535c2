"""What requests cost: the engine's counts at the model's prices, and the energy of their seconds. docs/bill.md has the formulas."""

from dataclasses import dataclass

from app.engine.engine import StepStats
from app.engine.work import NO_WORK, Work
from app.power import PowerMeter
from model.cost import Cost

NUM_DIGITS = 6  # microseconds and microjoules: more than clocks and counters are good for


@dataclass(frozen=True, slots=True)
class Bill:
    """`compute_seconds` are those of the device; `cpu_seconds` are None where that is a card, and energy where nothing tells it."""

    flops: int
    bytes_moved: int
    compute_seconds: float
    cpu_seconds: float | None
    energy_joules: float | None


class Billing:
    """Prices of one model on one device. `num_threads` compute, 0 on a card."""

    def __init__(self, cost: Cost, num_threads: int, power: PowerMeter | None) -> None:
        self._cost, self._num_threads, self._power = cost, num_threads, power
        self.compute_seconds, self._done = 0.0, NO_WORK

    def start(self) -> None:
        """Read energy from now on."""
        if self._power is not None:
            self._power.start()

    def stop(self) -> None:
        if self._power is not None:
            self._power.stop()

    def observe(self, stats: StepStats) -> None:
        """Add a step up: its seconds, and what those have taken who have ended with it."""
        self.compute_seconds += stats.compute_seconds
        if stats.work is not NO_WORK:
            self._done = self._done.plus(stats.work)

    @property
    def energy_source(self) -> str | None:
        return None if self._power is None else self._power.source

    @property
    def flops(self) -> int:
        """Of all that have ended."""
        return self._flops(self._done)

    @property
    def bytes_moved(self) -> float:
        return self._bytes_moved(self._done)

    @property
    def energy_joules(self) -> float | None:
        """That the device has taken since the start, whatever for; None as well once it can be read no more."""
        return None if self._power is None else self._power.joules

    def bill(self, work: Work, arrived: float) -> Bill:
        """Of a request's samples together; `arrived` is when it came, on the monotonic clock."""
        seconds = round(work.share.compute_seconds, NUM_DIGITS)
        watts = None if self._power is None else self._power.mean_watts(arrived)
        return Bill(
            flops=self._flops(work),
            bytes_moved=round(self._bytes_moved(work)),
            compute_seconds=seconds,
            cpu_seconds=round(seconds * self._num_threads, NUM_DIGITS) if self._num_threads else None,
            energy_joules=None if watts is None else round(watts * seconds, NUM_DIGITS),
        )

    def _flops(self, work: Work) -> int:
        return self._cost.flops(work.num_tokens, work.num_attended, work.num_heads)

    def _bytes_moved(self, work: Work) -> float:
        share = work.share
        return self._cost.bytes_moved(work.num_tokens, work.num_read, work.num_copied, share.num_passes, share.num_head_passes)
