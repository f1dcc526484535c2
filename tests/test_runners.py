"""What computes, and in which precision: the native step where CPU and checkpoint bear it, else the next best, always said."""

import re
from pathlib import Path

import pytest
import torch

import app.runners
from app.errors import StartupError
from app.runners import choose_runner
from app.settings import Settings
from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import load_model, load_tokenizer
from model.native.library import Feature, NativeUnavailable
from model.native.precision import Reference, measure_loss
from model.native.runner import NativeRunner, Precision
from model.runner import TorchRunner

ALL = Feature.AVX512 | Feature.AVX512_BF16 | Feature.AVX512_VNNI
# The checkpoint that comes with the service: what it loses can be seen in its perplexity, as it predicts English.
ENGLISH = Path(__file__).parents[1] / "model" / "default"


@pytest.fixture
def choose(tiny_checkpoint):
    """Choose a runner with some settings, for the tiny checkpoint unless another is named; `change` may alter its weights.

    Gives what was chosen, and the lines that were reported.
    """

    def choose(directory=tiny_checkpoint, change=lambda model: None, **settings):
        lines = []
        options = Settings(**({"max_running": 2, "threads": 2} | settings), _env_file=None)
        model = load_model(directory, lambda done, total: None).requires_grad_(False)
        change(model)
        chosen = choose_runner(model, load_tokenizer(directory), options, torch.device("cpu"), lines.append)
        return chosen, lines

    return choose


@pytest.fixture
def every_precision(require):
    require(ALL)


needs_every_precision = pytest.mark.usefixtures("every_precision")


def pretend_to_have(monkeypatch, features):
    """A CPU with these instruction sets, as far as the choice can tell."""
    monkeypatch.setattr(app.runners, "available_features", lambda: features)


def spoil(monkeypatch, wrong):
    """A native step whose logits (N, V) of a batch in a precision become what `wrong` makes of them."""

    class Spoilt(NativeRunner):
        def logits(self, batch, of_rows):
            return wrong(super().logits(batch, of_rows), batch, self.precision)

    monkeypatch.setattr(app.runners, "NativeRunner", Spoilt)


def outliers(factor):
    """As in GPT-2's own checkpoints one activation is far larger than the rest: by a power of two, which changes no product.

    Floating point loses nothing by it; bytes lose what is small beside it.
    """

    def change(model):
        for block in model.h:
            for norm, linear in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
                norm.weight[3] *= factor
                norm.bias[3] *= factor
                linear.weight[:, 3] /= factor

    return change


def offset(value):
    """All inputs of the MLPs lie around a value that their biases take off again: neither bytes nor bfloat16 hold what differs."""

    def change(model):
        for block in model.h:
            block.ln_2.bias += value
            block.mlp.c_fc.bias -= value * block.mlp.c_fc.weight.sum(dim=1)

    return change


# ---- the checkpoint


@needs_every_precision
@pytest.mark.parametrize("directory", [None, ENGLISH], ids=["random", "english"])
def test_the_default_is_the_fastest_precision_that_the_checkpoint_bears(choose, tiny_checkpoint, directory):
    chosen, lines = choose(directory or tiny_checkpoint)
    assert (chosen.dtype, chosen.backend, lines) == ("int8", "native", [])
    assert isinstance(chosen.runner, NativeRunner)


@needs_every_precision
def test_a_checkpoint_whose_outliers_int8_does_not_bear_runs_in_bfloat16_and_one_line_says_so(choose):
    chosen, lines = choose(ENGLISH, outliers(2.0**7))  # 5.1 % were measured
    assert (chosen.dtype, chosen.backend, chosen.runner.precision.label) == ("bfloat16", "native", "bfloat16")
    assert len(lines) == 1
    assert re.match(r"int8 would raise this checkpoint's perplexity by [3-8]\.\d %", lines[0])


@needs_every_precision
@pytest.mark.parametrize("dtype", ["auto", "int8"])
@pytest.mark.parametrize("directory", [None, ENGLISH], ids=["random", "english"])
def test_a_checkpoint_of_which_int8_leaves_nothing_does_not_run_in_it_even_if_asked_to(choose, tiny_checkpoint, dtype, directory):
    """Random weights predict nothing, and so may lose everything at no more perplexity."""
    chosen, lines = choose(directory or tiny_checkpoint, outliers(2.0**10), dtype=dtype)  # 0.85 to 0.92 deviations were measured
    assert (chosen.dtype, chosen.backend) == ("bfloat16", "native")
    assert len(lines) == 1
    assert "int8" in lines[0]
    if dtype == "int8":
        assert re.search(r"the self-test in int8 failed, 0\.\d+ deviations", lines[0])


@needs_every_precision
@pytest.mark.parametrize(("dtype", "refused"), [("auto", ["int8", "bfloat16"]), ("bfloat16", ["bfloat16"]), ("float32", [])])
def test_a_checkpoint_that_bears_float32_alone_runs_in_it_and_a_line_says_why_for_each_other(choose, dtype, refused):
    chosen, lines = choose(ENGLISH, offset(256.0), dtype=dtype)
    assert (chosen.dtype, chosen.backend) == ("float32", "native")
    for label, line in zip(refused, lines, strict=True):
        assert label in line


@needs_every_precision
def test_whoever_asks_for_a_precision_gets_it_though_it_costs_perplexity(choose):
    chosen, lines = choose(ENGLISH, outliers(2.0**7), dtype="int8")
    assert (chosen.dtype, chosen.backend, lines) == ("int8", "native", [])


# ---- the CPU


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_precision_that_is_asked_for_is_used(choose, require, dtype):
    require(Precision[dtype.upper()].needs)
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend, chosen.runner.precision.label, lines) == (dtype, "native", dtype, [])


@pytest.mark.parametrize(
    ("dtype", "lacking", "used"),
    [
        ("int8", [Feature.AVX512_VNNI], "bfloat16"),
        ("int8", [Feature.AVX512_VNNI, Feature.AVX512_BF16], "float32"),
        ("bfloat16", [Feature.AVX512_BF16], "float32"),
    ],
)
def test_a_precision_that_the_cpu_lacks_is_named_with_its_instruction_set_and_what_is_used(
    choose, require, monkeypatch, dtype, lacking, used
):
    require(Precision[used.upper()].needs)
    pretend_to_have(monkeypatch, ALL & ~sum(lacking, Feature(0)))
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend) == (used, "native")
    assert lines == [f"{dtype} needs {lacking[0].name}, which this CPU lacks; computing in {used} instead"]


def test_the_default_passes_over_what_the_cpu_lacks_in_silence(choose, require, monkeypatch):
    require(Precision.BFLOAT16.needs)
    pretend_to_have(monkeypatch, ALL & ~Feature.AVX512_VNNI)
    chosen, lines = choose()
    assert (chosen.dtype, chosen.backend, lines) == ("bfloat16", "native", [])


@pytest.mark.parametrize(
    ("dtype", "used"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")]
)
def test_without_the_library_pytorch_computes_and_one_line_says_why(choose, monkeypatch, dtype, used):
    def no_library():
        raise NativeUnavailable("it was not built")

    monkeypatch.setattr(app.runners, "available_features", no_library)
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend) == (used, "torch")
    assert isinstance(chosen.runner, TorchRunner)
    assert lines[0] == "computing with PyTorch in place of the native step: it was not built"
    assert lines[1:] == (
        ["int8 needs the native step, on a CPU with AVX512_VNNI; computing in float32 instead"] if dtype == "int8" else []
    )


def test_on_a_cpu_without_avx512_pytorch_computes(choose, monkeypatch):
    pretend_to_have(monkeypatch, Feature(0))
    chosen, lines = choose()
    assert chosen.backend == "torch"
    assert lines == ["computing with PyTorch in place of the native step: this CPU lacks AVX512"]


def test_more_slots_than_memory_is_a_clear_error(choose, monkeypatch):
    def refuse(*_):
        raise MemoryError("out of memory")

    pretend_to_have(monkeypatch, ALL)
    monkeypatch.setattr(app.runners, "NativeRunner", refuse)
    with pytest.raises(StartupError, match=r"no room for 1024 cache slots: out of memory; lower GPT2_MAX_RUNNING"):
        choose(max_running=1024)


# ---- the self-test


@needs_every_precision
@pytest.mark.parametrize(
    ("dtype", "tried"),
    [
        ("auto", ["int8", "bfloat16", "float32"]),
        ("int8", ["int8", "bfloat16", "float32"]),
        ("bfloat16", ["bfloat16", "float32"]),
        ("float32", ["float32"]),
    ],
)
@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_where_every_precision_computes_something_else_pytorch_computes_and_a_line_says_so_of_each(
    choose, monkeypatch, dtype, tried, factor
):
    spoil(monkeypatch, lambda logits, batch, precision: factor * logits)
    chosen, lines = choose(dtype=dtype)
    assert chosen.backend == "torch"
    assert isinstance(chosen.runner, TorchRunner)
    for label, line in zip(tried, lines, strict=False):
        assert label in line
    assert lines[len(tried) - 1].startswith("computing with PyTorch in place of the native step: the self-test in float32 failed")
    draw = Draw(SamplingParams(), 3)
    assert len(chosen.runner.execute(ForwardBatch((Chunk(0, 0, (1, 2, 3), draw),))).tokens) == 1


@needs_every_precision
@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_a_precision_that_computes_something_else_gives_way_to_the_next_and_one_line_says_so(choose, monkeypatch, dtype):
    spoil(monkeypatch, lambda logits, batch, precision: -logits if precision is Precision.INT8 else logits)
    chosen, lines = choose(dtype=dtype)
    assert (chosen.dtype, chosen.backend, len(lines)) == ("bfloat16", "native", 1)
    assert "int8" in lines[0]


@needs_every_precision
@pytest.mark.parametrize("dtype", ["auto", "int8", "bfloat16", "float32"])
def test_a_step_that_computes_prompts_well_but_single_tokens_not_is_found_out(choose, monkeypatch, dtype):
    """Other code computes few rows than many."""
    spoil(monkeypatch, lambda logits, batch, precision: -logits if batch.num_tokens == 1 else logits)
    assert choose(dtype=dtype)[0].backend == "torch"


@pytest.mark.parametrize("length", [1, 2, 5, 8, 256])
def test_the_measurement_takes_each_token_once_as_a_prompt_and_then_one_by_one(tiny_checkpoint, require, length):
    require(Feature.AVX512)
    chunks = []

    class Watched(NativeRunner):
        def logits(self, batch, of_rows):
            chunks.extend(batch.chunks)
            return super().logits(batch, of_rows)

    model, tokenizer = load_model(tiny_checkpoint, lambda done, total: None), load_tokenizer(tiny_checkpoint)
    reference = Reference.of(model, tokenizer, length)
    measure_loss(Watched(model, 1, Precision.FLOAT32, 1), reference)
    assert tuple(token_id for chunk in chunks for token_id in chunk.token_ids) == reference.token_ids
    assert [chunk.start for chunk in chunks[1:]] == [chunk.end for chunk in chunks[:-1]]
    num_decoded = min(3, length - 1)
    assert [len(chunk.token_ids) for chunk in chunks] == [length - num_decoded] + [1] * num_decoded


@pytest.mark.parametrize("precision", Precision)
def test_the_self_test_finds_wrong_weights(tiny_checkpoint, require, precision):
    require(precision.needs)
    model, tokenizer = load_model(tiny_checkpoint, lambda done, total: None), load_tokenizer(tiny_checkpoint)
    reference = Reference.of(model, tokenizer, 8)
    assert measure_loss(NativeRunner(model, 1, precision, 1), reference).is_sane(precision)
    with torch.no_grad():
        model.h[1].attn.c_proj.weight.mul_(-1)
    assert not measure_loss(NativeRunner(model, 1, precision, 1), reference).is_sane(precision)
