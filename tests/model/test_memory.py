"""How much memory is left, as the system's files tell, and how many cache slots have room in it."""

import gc

import numpy as np
import psutil
import pytest

import model.choice
from model.checkpoint import load_tokenizer, open_checkpoint
from model.choice import Wanted, choose_runner
from model.config import GPT2Config
from model.memory import NUM_SLOTS, Needs, NoRoom, available_bytes, choose_slots
from model.native.library import NativeUnavailable, Precision
from model.native.memory import needs_of
from model.native.runner import NativeRunner
from model.weights import Weight
from tests.system_files import lay_out

GB = 1_000_000_000
V2 = "sys/fs/cgroup/a.slice/b.scope"
V1 = "sys/fs/cgroup/memory/a"


@pytest.fixture
def system(tmp_path):
    """A root directory with these files; of the machine 8 GiB are available, and nothing of swap."""

    def system(files, swap=0):
        meminfo = f"MemTotal: 9000000 kB\nMemAvailable: {8 << 20} kB\nSwapFree: {swap} kB\nHugePages_Free: 3"
        return lay_out(tmp_path, {"proc/meminfo": meminfo, **files})

    return system


def v2(limit, used, stat="", group=V2, **more):
    files = {f"{group}/memory.max": limit, f"{group}/memory.current": used, f"{group}/memory.stat": stat}
    return {"proc/self/cgroup": "0::/a.slice/b.scope"} | files | {f"{group}/memory.{name}": text for name, text in more.items()}


def v1(limit, used, stat="", **more):
    files = {f"{V1}/memory.limit_in_bytes": limit, f"{V1}/memory.usage_in_bytes": used, f"{V1}/memory.stat": stat}
    return {"proc/self/cgroup": "5:memory:/a\n3:cpu:/b"} | files | {f"{V1}/memory.{name}": text for name, text in more.items()}


def test_without_a_limit_it_is_what_the_machine_has_left_with_its_swap(system):
    assert available_bytes(system({})) == 8 << 30
    assert available_bytes(system({}, swap=1 << 20)) == 9 << 30
    assert available_bytes(system(v2("max", 4 * GB))) == 8 << 30
    assert available_bytes(system(v1(9223372036854771712, 4 * GB))) == 8 << 30


def test_a_system_that_does_not_tell_refuses_nobody(tmp_path):
    assert available_bytes(tmp_path) is None
    assert choose_slots(Needs("int8", GB, GB, GB), 1000, None) == 1000


@pytest.mark.parametrize("limited", [v2(GB, GB // 4), v1(GB, GB // 4)], ids=["version 2", "version 1"])
def test_a_limit_of_control_groups_counts_beside_what_they_use(system, limited):
    assert available_bytes(system(limited)) == GB - GB // 4


def test_the_smallest_room_of_all_groups_counts(system):
    parent = v2(GB, GB // 2, group="sys/fs/cgroup/a.slice")
    assert available_bytes(system(v2(3 * GB, 0) | parent)) == GB // 2


def test_a_container_of_version_1_sees_its_group_at_the_mounts_root(system):
    files = {name.replace("/memory/a/", "/memory/"): text for name, text in v1(GB, 0).items()}
    assert available_bytes(system(files)) == GB


def test_pages_of_files_are_no_reason_to_refuse(system):
    """They are given up before anybody is killed, and a checkpoint that was just copied fills a container with them."""
    stat = f"anon 5\ninactive_file {GB // 2}\nactive_file {GB // 4}\nslab_reclaimable 16"
    assert available_bytes(system(v2(GB, GB, stat))) == GB // 2 + GB // 4 + 16
    stat = f"inactive_file 1\ntotal_inactive_file {GB // 2}\ntotal_active_file {GB // 4}"
    assert available_bytes(system(v1(GB, GB, stat))) == GB // 2 + GB // 4


def test_swap_counts_as_far_as_a_group_may_use_it(system):
    swap = 2 << 20  # kB
    assert available_bytes(system(v2(GB, 0), swap)) == GB + (2 << 30)
    assert available_bytes(system(v2(GB, 0, **{"swap.max": GB, "swap.current": 400}), swap)) == 2 * GB - 400
    assert available_bytes(system(v2(GB, 0, **{"swap.max": 0, "swap.current": 0}), swap)) == GB
    both = {"memsw.limit_in_bytes": GB + 7, "memsw.usage_in_bytes": 0}
    assert available_bytes(system(v1(GB, 0, **both), swap)) == GB + 7


def test_a_group_over_its_limit_leaves_nothing(system):
    assert available_bytes(system(v2(GB, 2 * GB))) == 0


NEEDS = Needs("int8", weights=500, slot=100, other=50)


def test_slots_that_are_asked_for_are_given_or_refused_with_what_would_fit():
    assert choose_slots(NEEDS, 7, free_bytes=1250) == 7
    with pytest.raises(NoRoom, match=r"no room for 8 cache slots: .* GPT2_MAX_RUNNING=7 would fit"):
        choose_slots(NEEDS, 8, free_bytes=1349)


def test_where_none_are_asked_for_there_are_as_many_as_have_room():
    assert choose_slots(NEEDS, 0, free_bytes=10**9) == NUM_SLOTS
    assert choose_slots(NEEDS, 0, free_bytes=1250) == 7
    assert choose_slots(NEEDS, 0, free_bytes=650) == 1


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_model_without_room_for_one_slot_is_refused_as_too_large(wanted):
    with pytest.raises(NoRoom, match=r"no room for this model: .* set GPT2_MODEL to a smaller one"):
        choose_slots(NEEDS, wanted, free_bytes=649)


def mapped_bytes():
    gc.collect()
    return psutil.Process().memory_info().vms


@pytest.mark.usefixtures("needs_native")
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FLOAT32])
def test_what_a_native_step_needs_is_what_it_takes(precision):
    config = GPT2Config(vocab_size=7000, n_positions=1000, n_embd=840, n_layer=2, n_head=6, eos_token_ids=(0,))
    shapes = config.parameter_shapes.items()
    weights = {name: Weight(np.zeros(shape, np.float32), "F32", is_transposed=False) for name, shape in shapes}
    needs, rounding = needs_of(config, precision), (4 * 2 + 4) << 21  # a huge page for each matrix and table
    before = mapped_bytes()
    few = NativeRunner(config, weights, 1, precision, 1)
    of_few = mapped_bytes() - before
    assert needs.weights + needs.slot <= of_few + (1 << 20)  # biases and scales lie elsewhere
    assert of_few <= needs.weights + needs.slot + rounding
    many = NativeRunner(config, weights, 51, precision, 1)
    of_many = mapped_bytes() - before - of_few
    assert abs(of_many - of_few - 50 * needs.slot) < rounding / 4
    assert (few.num_slots, many.num_slots) == (1, 51)


def test_pytorchs_runner_too_is_refused_before_it_takes_what_is_not_there(tiny_checkpoint, monkeypatch):
    def no_library(*_):
        raise NativeUnavailable("it was not built")

    monkeypatch.setattr(model.choice, "check_available", no_library)
    monkeypatch.setattr(model.choice, "available_bytes", lambda: 100 * 10**6)
    opened, lines = open_checkpoint(tiny_checkpoint), []
    wanted = Wanted("cpu", "float32", num_threads=1, num_slots=64)
    with pytest.raises(NoRoom, match=r"no room for 64 cache slots: .* GPT2_MAX_RUNNING=\d+ would fit"):
        choose_runner(opened, lambda: load_tokenizer(tiny_checkpoint), wanted, lines.append)
    monkeypatch.setattr(model.choice, "available_bytes", lambda: 60 * 10**6)
    chosen = choose_runner(opened, lambda: load_tokenizer(tiny_checkpoint), wanted._replace(num_slots=0), lines.append)
    assert chosen.backend == "torch"
    assert chosen.runner.num_slots < NUM_SLOTS
    assert f"room for {chosen.runner.num_slots} cache slots in float32" in lines[-1]
