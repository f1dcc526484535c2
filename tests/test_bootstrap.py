"""The service is built, or refused in a line that an operator can act on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import app.bootstrap
from app.bootstrap import build_service, make_engine, settled
from app.errors import StartupError
from app.settings import Settings
from model.batch import Capabilities
from model.choice import ChoiceError, Chosen, Wanted


@pytest.fixture
def build(tiny_checkpoint, monkeypatch):
    """Build a service on the tiny checkpoint; `choose`, if given, takes the place of the choice of a runner."""

    def build(choose=None, **settings):
        if choose is not None:
            monkeypatch.setattr(app.bootstrap, "choose_runner", choose)
        lines = []
        values = {"model": str(tiny_checkpoint), "device": "cpu", "_env_file": None} | settings
        return build_service(Settings(**values), lines.append), lines

    return build


def test_the_choice_is_told_all_that_the_settings_say(build):
    seen = []

    def choose(checkpoint, tokenizer, wanted, report):
        seen.append(wanted)
        raise ChoiceError("enough")

    with pytest.raises(StartupError, match="enough"):
        build(choose, dtype="float32", kernels="scalar", threads=3, max_running=5, prefill_chunk=64)
    assert seen == [Wanted("cpu", "float32", "scalar", num_threads=3, num_slots=5, chunk_size=64)]


def test_more_slots_than_memory_is_a_clear_error(build):
    def choose(*_):
        raise MemoryError("out of memory")

    with pytest.raises(StartupError, match=r"no room for 1024 cache slots: out of memory; lower GPT2_MAX_RUNNING"):
        build(choose, max_running=1024)


def test_what_computes_is_told_in_a_line_and_in_the_facts(build):
    service, lines = build(max_running=2)
    info = service.info
    assert f"{info.dtype} on cpu, by the {info.backend} runner (kernels {info.kernels}, arithmetic {info.arithmetic})" in lines[1]
    assert info.num_parameters == 395_200


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is mapped")
def test_the_weights_file_is_let_go_of(build, tiny_checkpoint):
    """It may be overwritten or cut short while the service runs: whoever had it mapped would serve other weights, or crash."""
    service, _ = build()
    assert service.info.dtype
    assert str(tiny_checkpoint) not in Path("/proc/self/maps").read_text()


def test_what_is_chosen_is_what_is_told(build):
    real = app.bootstrap.choose_runner

    def choose(*arguments):
        chosen = real(*arguments)
        return Chosen(chosen.runner, "bfloat16", "native", "amx", "bfloat16-tdpbf16ps", 12_345_678)

    service, lines = build(choose)
    assert "bfloat16 on cpu, by the native runner (kernels amx, arithmetic bfloat16-tdpbf16ps)" in lines[1]
    assert lines[2].endswith(", 12 MB")
    assert (service.info.kernels, service.info.arithmetic) == ("amx", "bfloat16-tdpbf16ps")
    text = service.metrics.exposition().decode()
    labels = 'arithmetic="bfloat16-tdpbf16ps",device="cpu",dtype="bfloat16",kernels="amx",model="tiny-gpt2"'
    assert f"gpt2_model_info{{{labels}}} 1.0" in text


@pytest.mark.parametrize(("is_asynchronous", "max_batch_tokens"), [(False, 256), (True, 2048)], ids=["cpu", "gpu"])
def test_an_engine_has_the_runners_slots_and_steps_as_large_as_the_device_likes_unless_told(is_asynchronous, max_batch_tokens):
    capabilities = Capabilities(True, 1, is_asynchronous=is_asynchronous)
    runner = SimpleNamespace(num_slots=7, max_positions=1024, capabilities=capabilities)
    scheduler = make_engine(Settings(_env_file=None), runner).scheduler
    assert (scheduler.slots.num_slots, scheduler.max_batch_tokens) == (7, max_batch_tokens)
    assert make_engine(Settings(max_batch_tokens=33, _env_file=None), runner).scheduler.max_batch_tokens == 33


@pytest.mark.parametrize(("max_waiting", "wanted"), [(1024, (4 + 1024) * 1024 // 2), (0, 16 * 1024)])
def test_half_of_what_slots_and_queue_could_hold_may_be_queued_unless_told(max_waiting, wanted):
    runner = SimpleNamespace(num_slots=4, max_positions=1024, capabilities=Capabilities(True, 1))
    assert settled(Settings(max_waiting=max_waiting, _env_file=None), runner).max_queued_tokens == wanted
    assert settled(Settings(max_waiting=max_waiting, max_queued_tokens=7, _env_file=None), runner).max_queued_tokens == 7
