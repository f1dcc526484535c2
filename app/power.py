"""The energy that processor or card have taken, where that can be read: Linux' RAPL, NVIDIA's NVML. Knows no requests.

A counter is read every 100 ms, in a thread of its own: a card takes milliseconds to answer, and RAPL's counters run over after some
minutes, which is seen only if they are read more often.
"""

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

POWERCAP = Path("/sys/class/powercap")
READ_SECONDS = 0.1
MAX_READINGS = 600  # a minute of them
STALE_SECONDS = 5.0  # without a reading: a counter that hangs has nothing to say of now
STOP_SECONDS = 1.0  # for the reading under way when the service ends
log = logging.getLogger("gpt2.power")


class EnergyUnreadable(Exception):
    """There is no counter here, or not for this user."""


class EnergyCounter(Protocol):
    """Counts up for as long as it lives."""

    @property
    def name(self) -> str: ...

    def joules(self) -> float:
        """Since some moment that stays the same. Raises OSError or ValueError."""


class Rapl:
    """All processors of the machine and, where they count it apart, their memory: whoever computes on them.

    "Running average power limit" of Intel's processors and AMD's, as Linux' powercap shows it: on most systems to root alone, in
    most virtual machines not at all. Raises EnergyUnreadable.
    """

    name = "rapl"

    def __init__(self, directory: Path = POWERCAP) -> None:
        try:
            domains = [path for path in sorted(directory.glob("intel-rapl:*")) if _is_counted((path / "name").read_text().strip())]
            self._domains = [_Domain(path / "energy_uj", _read(path / "max_energy_range_uj")) for path in domains]
        except (OSError, ValueError) as error:
            raise EnergyUnreadable(str(error)) from error
        if not self._domains:
            raise EnergyUnreadable(f"{directory} has no package that counts energy")

    def joules(self) -> float:
        return sum(domain.microjoules() for domain in self._domains) / 1e6


def _is_counted(name: str) -> bool:
    """A package has its cores' and graphics' in it, and `psys` has the packages'; memory is nobody's part."""
    return name.startswith("package") or name == "dram"


class _Domain:
    """A counter that begins anew at 0 behind `largest`."""

    def __init__(self, path: Path, largest: int) -> None:
        self._path, self._largest, self._sum = path, largest, 0
        self._last = _read(path)

    def microjoules(self) -> int:
        before, self._last = self._last, _read(self._path)
        gained = self._last - before
        self._sum += gained if gained >= 0 else gained + self._largest + 1
        return self._sum


def _read(path: Path) -> int:
    return int(path.read_text())


class Nvml:
    """One card, by the library that comes with its driver: `nvmlDeviceGetTotalEnergyConsumption`, of Volta and newer cards.

    Of all cards it is that at `pci_bus_id`, as CUDA's driver tells it: the two number cards differently, and not all names that
    CUDA_VISIBLE_DEVICES may have for one are names for NVML. Raises EnergyUnreadable.
    """

    name = "nvml"

    def __init__(self, pci_bus_id: str, load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> None:
        """`load` opens the library."""
        try:
            self._library = load("libnvidia-ml.so.1")
        except OSError as error:
            raise EnergyUnreadable(str(error)) from error
        self._device = ctypes.c_void_p()
        try:
            self._call("nvmlInit_v2")
            self._call("nvmlDeviceGetHandleByPciBusId_v2", pci_bus_id.encode(), ctypes.byref(self._device))
            self.joules()
        except (OSError, AttributeError) as error:  # an old driver lacks a function
            raise EnergyUnreadable(str(error)) from error

    def joules(self) -> float:
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise OSError(f"{name} answered {code}")


def open_counter(device: str, pci_bus_id: str | None = None) -> EnergyCounter | None:
    """That of what computes, "cpu" or "cuda", if it can be read; where CUDA's card is on the bus, its driver may not tell."""
    try:
        if device == "cpu":
            return Rapl()
        return Nvml(pci_bus_id) if pci_bus_id is not None else None
    except EnergyUnreadable as error:
        log.debug("no energy is told: %s", error)
        return None


class Reading(NamedTuple):
    """`at` is a time of the monotonic clock, `joules` are those since the start."""

    at: float
    joules: float


class PowerMeter:
    """Reads a counter over and over between `start` and `stop`; what it has read can be asked for by any thread."""

    def __init__(self, counter: EnergyCounter, clock: Callable[[], float] = time.monotonic) -> None:
        self._counter, self._clock = counter, clock
        self._first = counter.joules()
        self._readings = deque([Reading(clock(), 0.0)], MAX_READINGS)
        self._stopped = threading.Event()
        self._is_broken = False
        self._thread: threading.Thread | None = None

    @property
    def source(self) -> str:
        return self._counter.name

    @property
    def joules(self) -> float | None:
        """That were taken since this was made; None once it can be read no more."""
        return self._readings[-1].joules if self._is_current else None

    @property
    def _is_current(self) -> bool:
        return not self._is_broken and self._clock() - self._readings[-1].at <= STALE_SECONDS

    def start(self) -> None:
        thread = threading.Thread(target=self._run, name="gpt2-power", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """A reading that hangs is left behind."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def read(self) -> None:
        self._readings.append(Reading(self._clock(), self._counter.joules() - self._first))

    def mean_watts(self, since: float) -> float | None:
        """Between the last reading before `since`, or the oldest that is kept, and the latest.

        None before there are two, and once the counter can be read no more: of what has happened since then nothing is known.
        """
        if not self._is_current:
            return None
        readings = list(self._readings)
        last = readings.pop()
        if not readings:
            return None
        first = next((reading for reading in reversed(readings) if reading.at <= since), readings[0])
        return (last.joules - first.joules) / (last.at - first.at)

    def _run(self) -> None:
        while not self._stopped.wait(READ_SECONDS):
            try:
                self.read()
            except (OSError, ValueError) as error:
                self._is_broken = True
                log.warning("the energy counter %s can be read no more, and no energy is told: %s", self.source, error)
                return
