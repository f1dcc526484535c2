"""What computes, and in which precision: the native step where CPU and checkpoint bear it, else the next best, always said."""

import pytest
import torch

import app.runners
from app.errors import StartupError
from app.runners import choose_runner
from app.settings import Settings
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import load_model, load_tokenizer
from model.native.library import Feature, NativeUnavailable, available_features
from model.native.precision import LIMITS, Loss, Reference, measure_loss
from model.native.runner import NativeRunner, Precision
from model.runner import TorchRunner

ALL = Feature.AVX512 | Feature.AVX512_BF16 | Feature.AVX512_VNNI


@pytest.fixture(autouse=True)
def _needs_avx512():
    try:
        if ALL in available_features():
            return
    except NativeUnavailable as error:
        pytest.skip(str(error))
    pytest.skip("this CPU lacks an instruction set that these tests take away")


@pytest.fixture
def choose(tiny_checkpoint):
    """Choose a runner for the tiny checkpoint with some settings: what was chosen, and the lines that were reported."""

    def choose(model=None, **settings):
        lines = []
        options = Settings(**({"max_running": 2, "threads": 2} | settings), _env_file=None)
        model = model or load_model(tiny_checkpoint, lambda done, total: None)
        chosen = choose_runner(model, load_tokenizer(tiny_checkpoint), options, torch.device("cpu"), lines.append)
        return chosen, lines

    return choose


def without(monkeypatch, *features):
    """A CPU that lacks some instruction sets, as far as the choice can tell."""
    left = available_features()
    for feature in features:
        left &= ~feature
    monkeypatch.setattr(app.runners, "available_features", lambda: left)


def no_library():
    raise NativeUnavailable("it was not built")


def test_the_default_is_the_fastest_precision_that_the_checkpoint_bears(choose):
    chosen, lines = choose()
    assert (chosen.dtype, chosen.backend, lines) == ("int8", "native", [])
    assert isinstance(chosen.runner, NativeRunner)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_precision_that_is_asked_for_is_used(choose, dtype):
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.runner.precision.label, lines) == (dtype, dtype, [])


@pytest.mark.parametrize(
    ("limits", "used"),
    [({Precision.INT8: 0.0}, "bfloat16"), ({Precision.INT8: 0.0, Precision.BFLOAT16: 0.0}, "float32")],
)
def test_a_checkpoint_that_does_not_bear_a_precision_gets_the_next_with_one_line(choose, monkeypatch, limits, used):
    for precision, limit in limits.items():
        monkeypatch.setitem(LIMITS, precision, limit)
    chosen, lines = choose()
    assert chosen.dtype == used
    assert len(lines) == len(limits)
    assert lines[0].startswith("int8 would raise this checkpoint's perplexity by")


def test_a_checkpoint_with_outliers_is_found_out(tiny_checkpoint):
    """As in GPT-2's own checkpoints a few activations are far larger than the rest; here eight bits lose the others."""
    model, tokenizer = load_model(tiny_checkpoint, lambda done, total: None), load_tokenizer(tiny_checkpoint)
    with torch.no_grad():
        model.h[0].ln_2.weight[3] = 400.0
        model.h[0].mlp.c_fc.weight[:, 3] /= 400.0
    reference = Reference.of(model, tokenizer)
    losses = {precision: measure_loss(NativeRunner(model, 1, precision, 1), reference) for precision in Precision}
    assert losses[Precision.FLOAT32].error < 1e-4 < losses[Precision.BFLOAT16].error < losses[Precision.INT8].error / 3
    assert losses[Precision.BFLOAT16].is_within_limit(Precision.BFLOAT16)


@pytest.mark.parametrize(
    ("dtype", "lacking", "used"),
    [
        ("int8", [Feature.AVX512_VNNI], "bfloat16"),
        ("int8", [Feature.AVX512_VNNI, Feature.AVX512_BF16], "float32"),
        ("bfloat16", [Feature.AVX512_BF16], "float32"),
    ],
)
def test_a_precision_that_the_cpu_lacks_is_named_with_its_instruction_set_and_what_is_used(
    choose, monkeypatch, dtype, lacking, used
):
    without(monkeypatch, *lacking)
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend) == (used, "native")
    assert lines == [f"{dtype} needs {lacking[0].name}, which this CPU lacks; computing in {used} instead"]


def test_the_default_passes_over_what_the_cpu_lacks_in_silence(choose, monkeypatch):
    without(monkeypatch, Feature.AVX512_VNNI)
    chosen, lines = choose()
    assert (chosen.dtype, lines) == ("bfloat16", [])


@pytest.mark.parametrize(
    ("dtype", "used"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")]
)
def test_without_the_library_pytorch_computes_and_one_line_says_why(choose, monkeypatch, dtype, used):
    monkeypatch.setattr(app.runners, "available_features", no_library)
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend) == (used, "torch")
    assert isinstance(chosen.runner, TorchRunner)
    assert lines[0] == "computing with PyTorch in place of the native step: it was not built"
    assert lines[1:] == (
        ["int8 needs the native step, on a CPU with AVX512_VNNI; computing in float32 instead"] if dtype == "int8" else []
    )


def test_on_a_cpu_without_avx512_pytorch_computes(choose, monkeypatch):
    monkeypatch.setattr(app.runners, "available_features", lambda: Feature(0))
    chosen, lines = choose()
    assert chosen.backend == "torch"
    assert lines == ["computing with PyTorch in place of the native step: this CPU lacks AVX512"]


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_a_step_that_computes_something_else_fails_its_self_test_and_pytorch_computes(choose, monkeypatch, error):
    monkeypatch.setattr(app.runners, "measure_loss", lambda runner, reference: Loss(error, 1.0))
    chosen, lines = choose(dtype="float32")
    assert chosen.backend == "torch"
    assert "its self-test in float32 failed" in lines[0]
    draw = Draw(SamplingParams(), 3)
    assert len(chosen.runner.execute(ForwardBatch((Chunk(0, 0, (1, 2, 3), draw),))).tokens) == 1


def test_the_self_test_finds_wrong_weights(tiny_checkpoint):
    model, tokenizer = load_model(tiny_checkpoint, lambda done, total: None), load_tokenizer(tiny_checkpoint)
    reference = Reference.of(model, tokenizer, 8)
    with torch.no_grad():
        model.h[1].attn.c_proj.weight.mul_(-1)
    for precision in Precision:
        assert not measure_loss(NativeRunner(model, 1, precision, 1), reference).is_sane(precision)


def test_more_slots_than_memory_is_a_clear_error(choose, monkeypatch):
    def refuse(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(app.runners, "NativeRunner", refuse)
    with pytest.raises(StartupError, match=r"no room for 1024 cache slots: out of memory; lower GPT2_MAX_RUNNING"):
        choose(max_running=1024)
