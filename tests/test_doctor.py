"""`gpt2 doctor`: each check on a system of files, and the command as a process of its own."""

import ctypes
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import model.torch_choice
from app.doctor import cards, checkpoint, door, limits, processor, room
from app.doctor.computing import Computing
from app.doctor.computing import room as room_of
from app.doctor.examination import ORDER
from app.settings import Settings
from model.choice import Foreseen
from model.config import GPT2Config
from model.hub import NotFetched
from model.memory import Needs
from tests.ports import free_port
from tests.system_files import lay_out
from tests.test_cli import UNNEEDED, imported

ROOT = Path(__file__).parent.parent
MB = 1_000_000
NEEDS = Needs("int8", weights=100 * MB, slot=10 * MB, other=100 * MB)
WIDER = Needs("float32", weights=400 * MB, slot=40 * MB, other=100 * MB)
OWN_GROUP = {"proc/self/cgroup": "0::/"}


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A root directory with these files, and a process that may run on so many processors."""

    def system(files, processors=4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
        return lay_out(tmp_path, files)

    return system


def said(finding):
    """Level, and all words."""
    return finding.level, f"{finding.text} > {finding.remedy}"


# ---- the processor


def test_the_processor_is_told_with_the_instructions_that_kernels_are_made_of(system):
    info = "model name\t: AMD EPYC\nflags\t\t: fpu sse avx2 fma avx512f avx512_vnni"
    finding = processor.processor(system({"proc/cpuinfo": info}))
    assert finding.text.startswith("AMD EPYC, ")
    assert finding.text.endswith(": AVX2, AVX-512, VNNI")
    assert processor.processor(system({"proc/cpuinfo": "Features\t: fp asimd i8mm"})).text.endswith(": NEON, I8MM")
    assert processor.processor(system({"proc/cpuinfo": "nothing is told here"})).level == "ok"


SIBLINGS = {f"sys/devices/system/cpu/cpu{i}/topology/core_cpus_list": f"{i % 2},{i % 2 + 2}" for i in range(4)}


@pytest.mark.parametrize(
    ("files", "wanted", "level", "words"),
    [
        ({}, 0, "ok", "4 for 4 cores"),
        ({}, 4, "ok", "4 for 4 cores"),
        ({}, 5, "advice", "set GPT2_THREADS to 4, or 0"),
        ({}, 2, "advice", "the others are idle"),
        (SIBLINGS, 0, "ok", "2 for 2 cores (4 hardware threads)"),
        (SIBLINGS, 4, "advice", "set GPT2_THREADS to 2, or 0"),
        (OWN_GROUP | {"sys/fs/cgroup/cpu.max": "200000 100000"}, 0, "ok", "2 for 4 cores, of which the container may use 2"),
        (OWN_GROUP | {"sys/fs/cgroup/cpu.max": "150000 100000"}, 0, "advice", "docker run --cpus"),
        (OWN_GROUP | {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2, "advice", "set GPT2_THREADS to 1, or 0"),
    ],
)
def test_threads_are_held_against_cores_and_quota(system, files, wanted, level, words):
    found, text = said(processor.threads(wanted, system(files)))
    assert found == level
    assert words in text


FREQUENCY = "sys/devices/system/cpu/cpu0/cpufreq"


@pytest.mark.parametrize(
    ("files", "level", "words"),
    [
        ({}, "ok", ""),
        ({"proc/loadavg": "0.50 1 2 1/99 7"}, "ok", "0.5 processes ran"),
        ({"proc/loadavg": "3.50 1 2 1/99 7"}, "advice", "3.5 processes have run on 4 cores"),
        ({f"{FREQUENCY}/scaling_governor": "powersave", f"{FREQUENCY}/scaling_driver": "acpi-cpufreq"}, "advice", "cpupower"),
        ({f"{FREQUENCY}/scaling_governor": "powersave", f"{FREQUENCY}/scaling_driver": "intel_pstate"}, "ok", "powersave"),
        (OWN_GROUP | {"sys/fs/cgroup/cpu.stat": "nr_periods 200\nnr_throttled 50"}, "advice", "25 % of its time slices"),
        (OWN_GROUP | {"sys/fs/cgroup/cpu.stat": "nr_periods 0\nnr_throttled 0"}, "ok", ""),
    ],
)
def test_what_holds_cores_back_is_told(system, files, level, words):
    found, text = said(processor.speed(system(files)))
    assert found == level
    assert words in text


# ---- memory


def meminfo(available, swap=0):
    return {"proc/meminfo": f"MemAvailable: {available // 1024} kB\nSwapFree: {swap // 1024} kB"}


@pytest.mark.parametrize(
    ("files", "wanted", "level", "words"),
    [
        (meminfo(4000 * MB), 0, "ok", "needs 520 MB in int8, 1,780 MB in float32 for 32 full slots; 4,000 MB available"),
        (meminfo(1000 * MB), 0, "advice", "should the checkpoint not bear int8 > set GPT2_MAX_RUNNING lower"),
        (meminfo(300 * MB), 0, "advice", "room for 9 slots in place of 32"),
        (meminfo(300 * MB), 20, "problem", "GPT2_MAX_RUNNING: no room for 20 cache slots: "),
        (meminfo(200 * MB), 0, "problem", "GPT2_MAX_RUNNING: no room for this model: "),
        (meminfo(300 * MB, 4000 * MB), 20, "advice", "some of it swap"),
        ({}, 20, "ok", "an unknown amount available"),
        (meminfo(4000 * MB) | OWN_GROUP | {"sys/fs/cgroup/memory.high": 400 * MB}, 32, "advice", "memory.high"),
        (
            meminfo(4000 * MB) | OWN_GROUP | {"sys/fs/cgroup/memory.max": 400 * MB, "sys/fs/cgroup/memory.current": 7},
            32,
            "problem",
            "400 MB are available to this process; GPT2_MAX_RUNNING=19 would fit",
        ),
    ],
)
def test_memory_is_held_against_what_the_model_needs(system, files, wanted, level, words):
    found, text = said(room.memory([NEEDS, WIDER], wanted, system(files))[0])
    assert found == level, text
    assert words in text


def test_an_address_space_that_is_too_small_is_told(system, monkeypatch):
    files = system(meminfo(4000 * MB) | {"proc/self/status": f"VmPeak:\t9 kB\nVmSize:\t{100 * MB // 1024} kB"})
    limit = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, resource.RLIM_INFINITY))
    assert room.memory([NEEDS, WIDER], 0, files)[0].level == "ok"
    limit = 1900 * MB
    assert said(room.memory([NEEDS, WIDER], 0, files)[0])[0] == "ok"
    limit = 1800 * MB
    level, text = said(room.memory([NEEDS, WIDER], 0, files)[0])
    assert level == "advice"
    assert "4,000 MB available, within 1,700 MB of address space (ulimit -v): the start may fail for it" in text
    assert "ulimit -v unlimited" in text


@pytest.mark.parametrize(
    ("setting", "level", "words"),
    [
        ("always [madvise] never", "ok", "madvise: "),
        ("[always] madvise never", "ok", "always: "),
        ("always madvise [never]", "advice", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
    ],
)
def test_huge_pages_that_are_never_given_are_advised(system, setting, level, words):
    found, text = said(room.huge_pages(system({"sys/kernel/mm/transparent_hugepage/enabled": setting})))
    assert found == level
    assert words in text


def test_a_system_that_tells_nothing_of_huge_pages_is_no_fault(tmp_path):
    assert room.huge_pages(tmp_path).level == "ok"


# ---- limits


@pytest.mark.parametrize(
    ("allowed", "level", "words"),
    [
        ((20_000, 20_000), "ok", "20000 allowed, 4512 needed for 4096 connections"),
        ((1024, 20_000), "ok", "the service raises its limit from 1024"),
        ((1024, float("inf")), "ok", "inf allowed"),
        ((1024, 1024), "advice", "608 connections in place of 4096 > ulimit -n 4512"),
        ((448, 448), "advice", "32 connections in place of 4096 > "),
        ((447, 447), "advice", "31 connections in place of 4096, too few to serve anybody"),
        ((100, 100), "advice", "1 connection in place of 4096, too few to serve anybody: it would start, and refuse nearly all"),
    ],
)
def test_open_files_are_held_against_the_connections(allowed, level, words):
    found, text = said(limits.open_files(4096, allowed))
    assert found == level
    assert words in text


@pytest.mark.parametrize(
    ("files", "level"),
    [
        ({}, "ok"),
        (OWN_GROUP | {"sys/fs/cgroup/pids.max": "max", "sys/fs/cgroup/pids.current": "9"}, "ok"),
        (OWN_GROUP | {"sys/fs/cgroup/pids.max": "512", "sys/fs/cgroup/pids.current": "9"}, "ok"),
        (OWN_GROUP | {"sys/fs/cgroup/pids.max": "32", "sys/fs/cgroup/pids.current": "9"}, "advice"),
        (
            {"proc/self/cgroup": "3:pids:/a", "sys/fs/cgroup/pids/a/pids.max": "9", "sys/fs/cgroup/pids/a/pids.current": "9"},
            "advice",
        ),
    ],
)
def test_threads_that_a_container_does_not_allow_are_told(system, files, level):
    assert limits.processes(4, system(files)).level == level


def test_root_is_advised_against_and_a_container_named(system):
    status = {"proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb", ".dockerenv": ""}
    assert said(limits.rights(system(status)))[1].startswith("root, in Docker, with capabilities")
    status = {"proc/self/status": "Uid:\t10001\t10001\nCapEff:\t0000000000000000"}
    finding = limits.rights(system(status))
    assert (finding.level, finding.text) == ("ok", "user 10001, in Docker, without capabilities")


@pytest.mark.parametrize(
    ("source", "is_synchronised", "built", "level", "words"),
    [
        ("tsc", True, 0.0, "ok", "source tsc, synchronised"),
        ("tsc", None, 0.0, "ok", "not told"),
        ("tsc", False, 0.0, "advice", "chronyd"),
        ("hpet", True, 0.0, "advice", "slow to read"),
        ("tsc", True, time.time() + 1e6, "advice", "before this package was installed"),
    ],
)
def test_clocks_are_told(system, source, is_synchronised, built, level, words):
    found, text = said(limits.clock(is_synchronised, built, system({limits.CLOCK_PATH: source})))
    assert found == level
    assert words in text


# ---- the address and the keys


def test_who_holds_the_port_is_named():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        finding = door.address(Settings(port=port, _env_file=None), has_keys=False)
    assert finding.level == "problem"
    assert finding.text.startswith(f"GPT2_PORT: port {port} of 127.0.0.1 is in use already")
    assert "end " not in finding.remedy, "said by serve's own line"
    if sys.platform == "linux":
        assert f"process {os.getpid()} (" in finding.remedy
    assert door.address(Settings(port=port, _env_file=None), has_keys=False).level == "ok", "it was only looked at"


@pytest.mark.parametrize(
    ("host", "has_keys", "level"), [("0.0.0.0", False, "advice"), ("0.0.0.0", True, "ok"), ("127.0.0.1", False, "ok")]
)
def test_an_address_that_others_reach_without_a_key_is_advised_against(host, has_keys, level):
    found, text = said(door.address(Settings(host=host, port=0, _env_file=None), has_keys))
    assert found == level
    assert ("GPT2_API_KEYS_FILE" in text) == (level == "advice")


def test_keys_are_counted_never_shown(tmp_path):
    file = tmp_path / "keys"
    file.write_text("alice:0123456789abcdef\nbob:fedcba9876543210\n")
    file.chmod(0o600)
    found = door.keys(Settings(api_keys_file=str(file), _env_file=None))
    assert (said(found[0]), found[1]) == (("ok", "2 > "), True)
    file.chmod(0o644)
    level, text = said(door.keys(Settings(api_keys_file=str(file), _env_file=None))[0])
    assert level == "advice"
    assert "chmod o-r" in text
    file.write_text("alice:short")
    level, text = said(door.keys(Settings(api_keys_file=str(file), _env_file=None))[0])
    assert level == "problem"
    assert "short" not in text.replace("this one", "")


# ---- the model


def test_a_model_that_is_still_to_be_fetched_is_told_with_the_room_for_it(monkeypatch, tmp_path):
    def cached(name):
        raise NotFetched(tmp_path / "not" / "yet")

    monkeypatch.setattr(checkpoint, "cached", cached)
    finding, directory, opened = checkpoint.model(Settings(model="someone/gpt2", _env_file=None), "GPT2_MODEL")
    assert (finding.level, directory, opened) == ("advice", None, None)
    assert re.search(r"someone/gpt2 is to be fetched from the hub first, into .*, where [\d,]+ MB are free", finding.text)


# ---- cards


class Driver:
    """libcuda with one card."""

    def __init__(self, capability):
        self.values = {cards.MAJOR: capability[0], cards.MINOR: capability[1]}

    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 13000
        return 0

    def cuDeviceGet(self, device, index):
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"NVIDIA Some"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.values[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, value, device):
        value._obj.value = 80_000 * MB
        return 0


@pytest.fixture
def card(monkeypatch, tmp_path, system):
    def card(capability=(9, 0), built="2.13.0 for CUDA 13.0"):
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(capability))
        monkeypatch.setattr(cards, "torch_build", lambda: built)
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
        return cards.cards(
            system({"proc/driver/nvidia/version": "NVRM version: Open Kernel Module for x86_64  580.95.05  Release"})
        )

    return card


def test_a_card_is_told_as_its_driver_tells_it(card):
    level, text = said(cards.gpu(*card(), "auto", "cuda"))
    assert (level, text) == (
        "ok",
        "NVIDIA Some (compute capability 9.0, 80 GB); driver 580.95.05 for CUDA 13.0; PyTorch is 2.13.0 for CUDA 13.0 > ",
    )


@pytest.mark.parametrize(
    ("given", "wanted", "device", "words"),
    [
        ({}, "cpu", "cpu", "idle, since GPT2_DEVICE is cpu"),
        ({"built": None}, "auto", "cpu", "idle, since PyTorch was built without CUDA"),
        ({}, "auto", "cpu", "idle, since PyTorch is 2.13.0 for CUDA 13.0 and finds no card"),
        ({"capability": (7, 5)}, "auto", "cuda", "Triton's kernels need 8.0"),
    ],
)
def test_a_card_that_is_idle_or_old_is_advised(card, given, wanted, device, words):
    level, text = said(cards.gpu(*card(**given), wanted, device))
    assert level == "advice"
    assert words in text


def test_without_a_driver_there_are_no_cards(monkeypatch):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert cards.gpu(*cards.cards(), "auto", "cpu").text == "none, or none that the driver shows"


ON_CARD = Computing("cuda", Foreseen("cuda", ("auto",), 2), ("bfloat16",))


def room_on_card(monkeypatch, outcome):
    """Of a card whose choice has this outcome: a Card, or an error."""

    def choose_card(config, wanted, report):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(model.torch_choice, "choose_card", choose_card)
    return room_of(Settings(max_running=512, _env_file=None), ON_CARD, GPT2Config())


def test_a_cards_memory_is_told_with_the_slots_that_have_room(monkeypatch):
    chosen = model.torch_choice.Card(torch.device("cuda", 0), "NVIDIA Some", (9, 0), torch.bfloat16, 256, 79 * 10**9)
    finding, num_slots = room_on_card(monkeypatch, chosen)
    assert (finding.level, num_slots) == ("ok", 256)
    assert finding.text == "room for 256 slots in bfloat16 on the card, where 79.0 GB are free"


def test_a_card_without_room_is_a_problem_in_serves_words(monkeypatch):
    finding, num_slots = room_on_card(
        monkeypatch, MemoryError("1.0 GB of the card's memory are free; GPT2_MAX_RUNNING=7 would fit")
    )
    assert (finding.level, num_slots) == ("problem", None)
    assert finding.text.startswith(
        "no room for 512 cache slots: 1.0 GB of the card's memory are free; GPT2_MAX_RUNNING=7 would fit"
    )


# ---- the command


@pytest.fixture
def doctor(tmp_path, tiny_checkpoint):
    """Run it in an empty directory, without settings but those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "OTEL_"))}

    def doctor(*arguments, python=(), **variables):
        given = {"GPT2_MODEL": str(tiny_checkpoint), "GPT2_DEVICE": "cpu", "GPT2_PORT": "0", "PYTHONPATH": str(ROOT)} | variables
        command = [sys.executable, *python, "-m", "app", "doctor", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=clean | given, capture_output=True, text=True, timeout=120, check=False)

    return doctor


def test_a_screen_tells_that_serve_would_start(doctor, tiny_checkpoint):
    result = doctor()
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert "`gpt2 serve` would start here, at http://127.0.0.1:" in lines[0]
    assert f"{tiny_checkpoint}: 0.4 M parameters" in " ".join(result.stdout.split())
    assert "\x1b" not in result.stdout, "no colours where there is no terminal"
    assert max(len(line) for line in lines if str(tiny_checkpoint) not in line) <= 80
    assert len(lines) <= 40


def test_the_document_keeps_its_shape(doctor, tiny_checkpoint):
    found = json.loads(doctor("--json", "--threads", "1").stdout)
    assert list(found) == [
        "version", "would_start", "exit_code", "refusal", "host", "port", "model", "device", "backend", "kernels", "precisions",
        "threads", "max_running", "findings",
    ]  # fmt: skip
    assert (found["would_start"], found["exit_code"], found["refusal"]) == (True, 0, None)
    assert (found["host"], found["port"], found["model"]) == ("127.0.0.1", 0, str(tiny_checkpoint))
    assert (found["device"], found["threads"], found["max_running"]) == ("cpu", 1, 32)
    assert tuple(finding["check"] for finding in found["findings"]) == ORDER
    assert all(list(finding) == ["check", "level", "text", "remedy"] for finding in found["findings"])
    assert {finding["level"] for finding in found["findings"]} <= {"ok", "advice"}


def run_serve(folder, *arguments, **settings):
    """A start that is refused."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    return subprocess.run(
        [sys.executable, "-m", "app", "serve", *arguments],
        cwd=folder,
        env=clean | {"GPT2_DEVICE": "cpu", "GPT2_PORT": "0", "PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        ("address", {"GPT2_HOST": "192.0.2.1"}),
        ("keys", {"GPT2_API_KEYS_FILE": "absent"}),
        ("model", {"GPT2_MODEL": "no/such/model"}),
        ("kernels", {"GPT2_KERNELS": "triton"}),
        ("chat", {"GPT2_CHAT_TEMPLATE": "absent"}),
        ("keys", {"GPT2_API_KEYS_FILE": "absent", "GPT2_MODEL": "no/such/model"}),
        ("traces", {"OTEL_TRACES_EXPORTER": "zipkin", "GPT2_MODEL": "no/such/model"}),
        ("traces", {"OTEL_PROPAGATORS": "pigeon"}),
        ("traces", {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "1"}),
    ],
)
def test_what_serve_would_refuse_is_told_in_its_own_line(doctor, tmp_path, check, settings):
    result = doctor("--json", **settings)
    found = json.loads(result.stdout)
    assert (result.returncode, found["would_start"], found["exit_code"]) == (78, False, 78)
    problems = {finding["check"]: finding["text"] for finding in found["findings"] if finding["level"] == "problem"}
    assert problems[check] == found["refusal"]
    serve = run_serve(tmp_path, **({"GPT2_MODEL": str(found["model"])} | settings))
    assert serve.returncode == 78
    assert serve.stderr.splitlines()[-1] == f"gpt2: {found['refusal']}"


def test_the_screen_leads_to_the_problem(doctor):
    result = doctor(GPT2_MODEL="no/such/model")
    assert result.returncode == 78
    assert "`gpt2 serve` would not start here (exit code 78): see model" in result.stdout.splitlines()[0]
    assert "1 in the way" in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("without", ["model.safetensors", "vocab.json"])
def test_a_model_that_an_option_names_is_refused_by_the_option_with_the_code_of_a_wrong_call(
    doctor, tiny_checkpoint, tmp_path, without
):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / without).unlink()
    result = doctor("--json", "--model", str(model))
    found = json.loads(result.stdout)
    assert (result.returncode, found["exit_code"]) == (2, 2)
    assert re.match(rf"--model: .*{model}", found["refusal"])
    serve = run_serve(tmp_path, "--model", str(model))
    assert (serve.returncode, serve.stderr.splitlines()[-1]) == (2, f"gpt2: {found['refusal']}")


def test_a_wrong_setting_is_refused_as_serve_does(doctor):
    result = doctor("--port", "70000")
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr.startswith("gpt2: --port: '70000' is refused")


def test_traces_are_told_by_the_variable_that_asks_for_them_and_none_is_sent(doctor):
    with socket.create_server(("127.0.0.1", 0)) as collector:
        collector.setblocking(False)
        result = doctor("--json", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://name:secret@127.0.0.1:{collector.getsockname()[1]}")
        with pytest.raises(BlockingIOError):
            collector.accept()
    assert (result.returncode, result.stderr) == (0, "")
    found = {finding["check"]: finding["text"] for finding in json.loads(result.stdout)["findings"]}
    assert found["traces"] == "otlp, asked for by OTEL_EXPORTER_OTLP_ENDPOINT"


def test_the_document_of_a_wrong_setting_has_the_same_names(doctor):
    result = doctor("--json", "--port", "70000")
    assert (result.returncode, result.stderr) == (78, "")
    refused = json.loads(result.stdout)
    assert list(refused) == list(json.loads(doctor("--json").stdout))
    assert (refused["would_start"], refused["exit_code"], refused["findings"]) == (False, 78, [])
    assert refused["refusal"].startswith("--port: '70000' is refused: input should be")


def test_settings_that_nothing_reads_are_told_and_their_values_are_not(doctor, tmp_path):
    assert found(doctor, "settings")["level"] == "ok"
    (tmp_path / ".env").write_text('GPT2_API_KEY=a-clients\nGPT2_MAX_RUNING=4711\n\nGPT2_API_KEYS="4712\nGPT2_PORT=1\n')
    finding = found(doctor, "settings", GPT2_MAXRUNNING="4713")
    assert finding["level"] == "advice"
    assert "GPT2_MAX_RUNING in .env is no setting; the nearest is GPT2_MAX_RUNNING" in finding["text"]
    assert "GPT2_MAXRUNNING in the environment is no setting; the nearest is GPT2_MAX_RUNNING" in finding["text"]
    assert "line 4 of .env cannot be parsed" in finding["text"]
    assert "GPT2_API_KEY " not in finding["text"]
    assert "471" not in finding["text"]


def found(doctor, check, **settings):
    result = doctor("--json", **settings)
    assert result.stderr == ""
    return next(finding for finding in json.loads(result.stdout)["findings"] if finding["check"] == check)


@pytest.mark.usefixtures("needs_native")
def test_nothing_of_torch_is_imported_where_the_native_step_computes(doctor):
    result = doctor(python=("-X", "importtime"))
    assert "app.doctor.examination" in imported(result.stderr)
    assert not imported(result.stderr) & UNNEEDED
