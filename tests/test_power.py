"""Energy counters, by files and a library that stand for the real ones, and the power that is read from them."""

import ctypes
import threading
from pathlib import Path

import pytest

from app.billing import Billing
from app.engine.engine import StepStats
from app.engine.work import Share, Work
from app.power import EnergyUnreadable, Nvml, PowerMeter, Rapl, open_counter
from model.config import GPT2Config
from model.cost import Cost
from model.machine import cuda_bus_id


def domain(directory: Path, path: str, name: str, microjoules: int, largest: int = 262_143_328_850) -> Path:
    folder = directory / path
    folder.mkdir(parents=True)
    for file, value in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": largest}.items():
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_rapl_adds_up_packages_and_their_memory_and_nothing_twice(tmp_path):
    paths = [
        domain(tmp_path, path, name, 1_000_000)
        for path, name in {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:0:1": "dram",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",
            "intel-rapl-mmio:0": "package-0",
        }.items()
    ]
    (tmp_path / "intel-rapl").mkdir()  # the driver's own folder, as it is in sysfs
    counter = Rapl(tmp_path)
    assert counter.joules() == 0
    for i, path in enumerate(paths):
        path.write_text(f"{1_000_000 + 10**6 * 10**i}\n")
    assert counter.joules() == 1 + 100 + 1000


def test_rapl_runs_over(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", 9_000_000, largest=9_999_999)
    counter = Rapl(tmp_path)
    told = []
    for microjoules in (2_000_000, 8_000_000, 1_000_000):
        path.write_text(f"{microjoules}\n")
        told.append(counter.joules())
    assert told == [3, 9, 12]


def test_without_rapl_there_is_no_counter(tmp_path):
    with pytest.raises(EnergyUnreadable, match="no package"):
        Rapl(tmp_path / "nowhere")


def test_rapl_that_may_not_be_read_is_no_counter(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    path.unlink()
    path.mkdir()  # for root can read any file
    with pytest.raises(EnergyUnreadable):
        Rapl(tmp_path)


class Library:
    """NVML as far as it is called; `fails` names the function that answers an error."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.millijoules = fails, 5_000
        self.opened: object = None

    def nvmlInit_v2(self) -> int:  # the library's own names
        return 9 * (self.fails == "init")

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus_id: bytes, handle) -> int:
        self.opened = bus_id
        return 6 * (self.fails == "handle")

    def nvmlDeviceGetTotalEnergyConsumption(self, device: ctypes.c_void_p, told) -> int:
        ctypes.cast(told, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return 3 * (self.fails == "energy")


class Driver:
    """CUDA's, of a machine whose fastest card is the second on the bus."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count) -> int:
        return 0

    def cuDeviceGet(self, handle, index: int) -> int:
        handle._obj.value = 7 + index
        return 0

    def cuDeviceGetPCIBusId(self, name, size: int, handle) -> int:
        name.value = {7: b"0000:65:00.0", 8: b"0000:17:00.0"}[handle.value]
        return 0


def test_nvml_reads_the_card_that_computes_however_cuda_counts(monkeypatch):
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    counter = Nvml(cuda_bus_id(), lambda name: library)
    library.millijoules = 7_500
    assert (library.opened, counter.joules()) == (b"0000:65:00.0", 7.5)


def test_a_card_whose_place_cudas_driver_does_not_tell_has_no_counter(monkeypatch):
    monkeypatch.setattr(Driver, "cuDeviceGetPCIBusId", lambda *_: 101)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_bus_id() is None
    monkeypatch.delattr(Driver, "cuDeviceGetPCIBusId")
    assert cuda_bus_id() is None
    assert open_counter("cuda", None) is None


@pytest.mark.parametrize("fails", ["init", "handle", "energy"])
def test_a_card_or_a_driver_that_tells_no_energy_is_no_counter(fails):
    with pytest.raises(EnergyUnreadable, match="answered"):
        Nvml("0000:65:00.0", lambda name: Library(fails))


def test_a_driver_that_is_too_old_is_no_counter():
    class Old:
        def nvmlInit_v2(self) -> int:
            return 0

    with pytest.raises(EnergyUnreadable):
        Nvml("0000:65:00.0", lambda name: Old())


def test_without_nvidias_driver_there_is_no_counter():
    def load(name: str) -> ctypes.CDLL:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    with pytest.raises(EnergyUnreadable, match="cannot open"):
        Nvml("0000:65:00.0", load)


def test_whether_energy_can_be_read_is_found_out_and_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setattr("app.power.Rapl", lambda: Rapl(tmp_path))
    assert open_counter("cpu") is None
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    assert open_counter("cpu").name == "rapl"


class Counter:
    """One by hand."""

    name = "rapl"

    def __init__(self) -> None:
        self.sum, self.now = 40.0, 0.0

    def joules(self) -> float:
        return self.sum

    def read(self, meter: PowerMeter, seconds: float, joules: float) -> None:
        self.now += seconds
        self.sum += joules
        meter.read()


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def meter(counter) -> PowerMeter:
    return PowerMeter(counter, lambda: counter.now)


def test_the_mean_power_is_that_since_the_request_came(counter, meter):
    assert meter.mean_watts(0.0) is None
    for joules in (10, 20, 30):  # a second each
        counter.read(meter, 1, joules)
    assert [meter.mean_watts(since) for since in (0.0, 1.0, 1.5, 2.0)] == [20, 25, 25, 30]
    assert meter.mean_watts(3.0) == 30, "of who came after the latest reading, that of the last interval"
    assert meter.mean_watts(-9.0) == 20, "of who came before the oldest, that of all that is known"
    assert meter.joules == 60


def test_a_counter_is_read_between_start_and_stop(counter, monkeypatch):
    monkeypatch.setattr("app.power.READ_SECONDS", 0.001)
    was_read = threading.Event()
    meter = PowerMeter(counter)
    monkeypatch.setattr(counter, "joules", lambda: was_read.set() or 41.0)
    meter.start()
    assert was_read.wait(60)
    meter.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "gpt2-power"]
    assert meter.joules in (0.0, 1.0)


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no number")])
def test_a_counter_that_breaks_is_left_alone_and_told_of_no_more(counter, meter, monkeypatch, caplog, error):
    def broken() -> float:
        raise error

    counter.read(meter, 1, 30)
    assert (meter.mean_watts(0.0), meter.joules) == (30, 30)
    monkeypatch.setattr("app.power.READ_SECONDS", 0.001)
    monkeypatch.setattr(counter, "joules", broken)
    meter.start()
    meter._thread.join(60)
    assert not meter._thread.is_alive()
    meter.stop()
    assert f"the energy counter rapl can be read no more, and no energy is told: {error}" in caplog.text
    assert (meter.mean_watts(0.0), meter.joules) == (None, None)


def test_a_counter_that_hangs_is_told_of_no_more_and_left_behind(counter, meter, monkeypatch):
    hangs, goes_on = threading.Event(), threading.Event()

    def hanging() -> float:
        hangs.set()
        goes_on.wait(60)
        return counter.sum

    counter.read(meter, 1, 30)
    monkeypatch.setattr("app.power.READ_SECONDS", 0.001)
    monkeypatch.setattr("app.power.STOP_SECONDS", 0.001)
    monkeypatch.setattr(counter, "joules", hanging)
    meter.start()
    try:
        assert hangs.wait(60)
        counter.now += 5
        assert (meter.mean_watts(5.5), meter.joules) == (30, 30)
        counter.now += 0.5
        assert (meter.mean_watts(5.5), meter.joules) == (None, None)
        meter.stop()
        assert meter._thread.is_alive()
    finally:
        goes_on.set()
        meter._thread.join(60)


CONFIG = GPT2Config(vocab_size=50, n_positions=32, n_embd=12, n_layer=2, n_head=3, eos_token_ids=(0,))
WORK = Work(4, 10, 7, 2, 0, Share(1.5, 1.0, 2.0))


def test_a_bill_has_the_energy_of_its_seconds(counter, meter):
    billing = Billing(Cost(CONFIG, "float32"), 2, meter)
    assert billing.bill(WORK, arrived=0.0).energy_joules is None, "nothing has been read yet"
    counter.read(meter, 10, 30)
    bill = billing.bill(WORK, arrived=0.0)
    assert (bill.compute_seconds, bill.cpu_seconds, bill.energy_joules) == (2.0, 4.0, 6.0)
    assert bill.flops == Cost(CONFIG, "float32").flops(4, 10, 2)
    assert bill.bytes_moved == round(Cost(CONFIG, "float32").bytes_moved(4, 7, 0, 1.5, 1.0))


def test_a_card_has_no_cpu_seconds_and_no_counter_no_joules():
    bill = Billing(Cost(CONFIG, "bfloat16"), 0, None).bill(WORK, arrived=0.0)
    assert (bill.compute_seconds, bill.cpu_seconds, bill.energy_joules) == (2.0, None, None)


def test_a_bill_is_told_to_the_microsecond(counter, meter):
    """Seconds of 17 digits look as if they were known so well; joules remain those of the seconds that are told."""
    counter.read(meter, 10, 30)
    work = WORK._replace(share=WORK.share._replace(compute_seconds=1 / 3))
    bill = Billing(Cost(CONFIG, "float32"), 2, meter).bill(work, arrived=0.0)
    assert (bill.compute_seconds, bill.cpu_seconds, bill.energy_joules) == (0.333333, 0.666666, 0.999999)


def test_all_that_has_ended_is_added_up():
    billing = Billing(Cost(CONFIG, "float32"), 1, None)
    stats = StepStats(1, 0, 0, 0, 1, 0.6, 0, 0, 0, None, compute_seconds=0.5, work=WORK)
    for _ in range(3):
        billing.observe(stats)
    assert (billing.compute_seconds, billing.flops) == (1.5, 3 * Cost(CONFIG, "float32").flops(4, 10, 2))
