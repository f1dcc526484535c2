"""Chooses what computes, and in which precision: the native step on a CPU that has the instructions, else PyTorch."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from app.errors import StartupError
from app.settings import Settings
from model.batch import Chunk, Draw, ForwardBatch, Runner, SamplingParams
from model.gpt2 import GPT2
from model.native.library import Feature, NativeUnavailable, Precision, available_features
from model.native.precision import Loss, Reference, measure_loss
from model.native.runner import NativeRunner
from model.runner import TorchRunner
from model.tokenizer import Tokenizer

SELF_TEST_LENGTH = 8
# How far below the plain network's best logit PyTorch's choice may lie, in standard deviations of the logits: rounding, no more.
SELF_TEST_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.5}
FASTEST_FIRST = (Precision.INT8, Precision.BFLOAT16, Precision.FLOAT32)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A runner that has passed its self-test, and what /info says of it."""

    runner: Runner
    dtype: str
    backend: str
    cache_bytes: int


def choose_device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise StartupError(
            "device cuda is asked for, but PyTorch finds no CUDA device here; leave GPT2_DEVICE at auto or set it to cpu"
        )
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def choose_runner(model: GPT2, tokenizer: Tokenizer, settings: Settings, device: torch.device, report: Report) -> Chosen:
    """Build and test a runner. The model's weights may be repacked in place: nobody else can use it afterwards."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        if device.type == "cpu" and (chosen := _native(model, tokenizer, settings, report)):
            return chosen
        return _torch(model, settings, device, _torch_dtype(settings, device, report))
    except MemoryError as error:
        raise StartupError(f"no room for {settings.max_running} cache slots: {error}; lower GPT2_MAX_RUNNING") from error


def _native(model: GPT2, tokenizer: Tokenizer, settings: Settings, report: Report) -> Chosen | None:
    """The native step in the first precision that CPU and checkpoint bear; None, with the reason said, if it cannot run."""
    try:
        precisions = _precisions(settings.dtype, available_features(), report)
        # An explicit choice is tested for sanity alone, which a few rows show.
        is_measured = settings.dtype == "auto" and precisions[0] is not Precision.FLOAT32
        reference = Reference.of(model, tokenizer, *([] if is_measured else [SELF_TEST_LENGTH]))
        for precision in precisions:
            runner = NativeRunner(model, settings.max_running, precision, torch.get_num_threads())
            refusal = _refusal(precision, measure_loss(runner, reference), is_measured)
            if refusal is None:
                return Chosen(runner, precision.label, "native", runner.cache_bytes)
            del runner
            if precision is precisions[-1]:
                raise NativeUnavailable(refusal)
            report(f"{refusal}; it is not used")
    except NativeUnavailable as error:
        report(f"computing with PyTorch in place of the native step: {error}")
    return None


def _refusal(precision: Precision, loss: Loss, is_measured: bool) -> str | None:
    """Why a precision may not be used, if it may not."""
    if is_measured and not loss.is_within_limit(precision) and math.isfinite(loss.perplexity_ratio):
        return f"{precision.label} would raise this checkpoint's perplexity by {100 * (loss.perplexity_ratio - 1):.1f} %"
    if not loss.is_sane(precision):
        return f"the self-test in {precision.label} failed, {loss.error:.3g} deviations from PyTorch's logits"
    return None


def _precisions(dtype: str, features: Feature, report: Report) -> tuple[Precision, ...]:
    """What to try in turn, the fastest first; what the CPU lacks is passed over, and said so if it was asked for."""
    wanted = FASTEST_FIRST if dtype == "auto" else FASTEST_FIRST[FASTEST_FIRST.index(Precision[dtype.upper()]) :]
    possible = tuple(precision for precision in wanted if precision.needs in features)
    if not possible:
        raise NativeUnavailable(f"this CPU lacks {Precision.FLOAT32.needs.name}")
    if dtype != "auto" and possible[0] is not wanted[0]:
        report(f"{dtype} needs {wanted[0].needs.name}, which this CPU lacks; computing in {possible[0].label} instead")
    return possible


def _torch_dtype(settings: Settings, device: torch.device, report: Report) -> torch.dtype:
    if settings.dtype == "int8":
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        report(f"int8 needs the native step, on a CPU with AVX512_VNNI; computing in {_label(dtype)} instead")
        return dtype
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[settings.dtype]


def _torch(model: GPT2, settings: Settings, device: torch.device, dtype: torch.dtype) -> Chosen:
    num_tokens = min(SELF_TEST_LENGTH, settings.prefill_chunk, model.config.n_positions)
    token_ids = [i % model.config.vocab_size for i in range(1, num_tokens + 1)]
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([token_ids]))[0, -1]  # (V,), by the plain network, before the runner repacks it
    try:
        runner = TorchRunner(model, settings.max_running, settings.prefill_chunk, device, dtype)
    except RuntimeError as error:
        if "memory" in str(error).lower():  # torch says it so
            raise MemoryError(str(error)) from error
        raise StartupError(f"the model cannot run in {dtype} on {device.type} here: {error}") from error
    draw = Draw(SamplingParams(), position=len(token_ids))
    (token,) = runner.execute(ForwardBatch((Chunk(0, 0, tuple(token_ids), draw),))).tokens
    gap = (expected.max() - expected[token.token_id]) / expected.std()
    if not gap <= SELF_TEST_TOLERANCE[dtype]:
        raise StartupError(
            f"self-test failed: the runner's token {token.token_id} is {gap:.3f} deviations below the network's choice"
        )
    return Chosen(runner, _label(dtype), "torch", runner.cache.data.nbytes)


def _label(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
