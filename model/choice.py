"""Which runner computes, in which precision, and whether it does so rightly. Imports torch only where PyTorch computes.

The precision that nobody asked for depends on the checkpoint alone, never on the machine: int8 if the checkpoint bears it, else
float32. What was asked for and cannot be had is refused, not replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from model.batch import Runner
from model.checkpoint import Checkpoint
from model.machine import NO_TORCH, has_torch, num_cores, num_cuda_devices
from model.memory import NUM_SLOTS, Needs, available_bytes, choose_slots, mega
from model.native.library import KernelsUnavailable, NativeUnavailable, NotFinite, Precision, available_kernels, check_available
from model.native.memory import needs_of
from model.native.precision import INT8_LIMIT, NUM_TOKENS, Loss, loss_of, reference_runner, sample_ids, score
from model.native.runner import NativeRunner
from model.native.self_test import SelfTestFailed, check_kernels
from model.tokenizer import Tokenizer

SANITY_TOKENS = 8
CUDA_KERNELS = ("triton", "torch")

Report = Callable[[str], None]


class ChoiceError(Exception):
    """What was asked for cannot be had here; the message names what is missing, what there is, and the setting to change."""


class Wanted(NamedTuple):
    """What was asked for, "auto" or 0 where nothing was; `chunk_size` is PyTorch's most tokens a chunk."""

    device: str = "auto"
    dtype: str = "auto"
    kernels: str = "auto"
    num_threads: int = 0
    num_slots: int = 0
    chunk_size: int = 128


@dataclass(frozen=True, slots=True)
class Chosen:
    """A runner that has passed its self-test, and what is told of it; `arithmetic` is what fixes the bits of its results."""

    runner: Runner
    dtype: str
    backend: str
    kernels: str
    arithmetic: str
    cache_bytes: int


def choose_device(device: str) -> str:
    """cpu or cuda, as asked for; auto takes cuda if driver and PyTorch find a device."""
    if device == "cuda" and not has_torch():
        raise ChoiceError(f"device cuda is asked for, but {NO_TORCH}; leave GPT2_DEVICE at auto or set it to cpu")
    if device != "cpu" and has_torch() and num_cuda_devices() and _cuda_is_available():
        return "cuda"
    if device == "cuda":
        raise ChoiceError(
            "device cuda is asked for, but PyTorch finds no CUDA device here; leave GPT2_DEVICE at auto or set it to cpu"
        )
    return "cpu"


class Foreseen(NamedTuple):
    """What will compute, as far as the machine tells; `kernels` may be among several, of which the fastest is measured."""

    backend: str
    kernels: tuple[str, ...]
    num_threads: int
    reason: str = ""  # why PyTorch computes where the native step could


def foresee(wanted: Wanted) -> Foreseen:
    """What `choose_runner` would take, without a checkpoint. Raises ChoiceError."""
    num_threads = wanted.num_threads or num_cores()
    if choose_device(wanted.device) == "cuda":
        _check_cuda_can(wanted)
        return Foreseen("torch" if wanted.kernels == "torch" else "cuda", (wanted.kernels,), num_threads)
    if wanted.kernels in CUDA_KERNELS:
        why = "which are for cuda" if has_torch() else f"but {NO_TORCH}"
        raise ChoiceError(f"kernels {wanted.kernels} are asked for, {why}; leave GPT2_KERNELS at auto")
    try:
        check_available(wanted.kernels)
        kernels = available_kernels() if wanted.kernels == "auto" else (wanted.kernels,)
        return Foreseen("native", kernels, num_threads)
    except KernelsUnavailable as error:
        raise ChoiceError(f"{error}; set GPT2_KERNELS to one of these, or leave it at auto") from error
    except NativeUnavailable as error:
        _check_torch_can(wanted, error)
        return Foreseen("torch", ("torch",), num_threads, str(error))


def choose_runner(checkpoint: Checkpoint, tokenizer: Callable[[], Tokenizer], wanted: Wanted, report: Report) -> Chosen:
    """Build and test a runner; `report` is told what is not as could be expected, in a line each.

    The tokenizer is asked for once the weights are packed: it may be loaded beside that. Raises ChoiceError, CheckpointError for
    weights that are no numbers, MemoryError, NoRoom among them.
    """
    foreseen = foresee(wanted)
    wanted = wanted._replace(device=choose_device(wanted.device), num_threads=foreseen.num_threads)
    if foreseen.backend != "native":
        if foreseen.reason:
            report(f"computing with PyTorch in place of the native step: {foreseen.reason}")
        return _torch(checkpoint, wanted, report)
    try:
        runner = _native(checkpoint, tokenizer, wanted, report)
    except NotFinite as error:
        raise checkpoint.not_finite(error.name) from error
    except NativeUnavailable as error:
        _check_torch_can(wanted, error)
        report(f"computing with PyTorch in place of the native step: {error}")
        return _torch(checkpoint, wanted, report)
    return Chosen(runner, runner.precision.label, "native", runner.kernels, runner.arithmetic, runner.cache_bytes)


def slots_with_room(needs: Needs, wanted: Wanted, report: Report) -> int:
    """On a CPU. Raises NoRoom."""
    free_bytes = available_bytes()
    num_slots = choose_slots(needs, wanted.num_slots, free_bytes)
    if not wanted.num_slots and num_slots < NUM_SLOTS and free_bytes is not None:
        report(f"{mega(free_bytes)} of memory are available, room for {num_slots} cache slots in {needs.precision}")
    return num_slots


def _check_cuda_can(wanted: Wanted) -> None:
    if wanted.kernels not in ("auto", *CUDA_KERNELS):
        raise ChoiceError(
            f"kernels {wanted.kernels} are asked for, but on cuda there are {' and '.join(CUDA_KERNELS)}; set GPT2_DEVICE to cpu, "
            "or GPT2_KERNELS to auto"
        )
    if wanted.dtype == "int8":
        raise ChoiceError(
            "dtype int8 is asked for, but on cuda there are bfloat16 and float32; set GPT2_DEVICE to cpu, or GPT2_DTYPE to auto"
        )


def _check_torch_can(wanted: Wanted, why: NativeUnavailable) -> None:
    if wanted.kernels != "auto":
        raise ChoiceError(f"kernels {wanted.kernels} are of the native step, which cannot run: {why}; leave GPT2_KERNELS at auto")
    if wanted.dtype == "int8":
        raise ChoiceError(
            f"dtype int8 is of the native step, which cannot run: {why}; PyTorch computes in float32, with GPT2_DTYPE at auto"
        )
    if not has_torch():
        raise ChoiceError(f"the native step cannot run: {why}; nor can PyTorch in its place: {NO_TORCH}")


def _native(checkpoint: Checkpoint, tokenizer: Callable[[], Tokenizer], wanted: Wanted, report: Report) -> NativeRunner:
    """The native step in the precision that is asked for or, if none is, the first that the checkpoint bears."""

    def build(precision: Precision) -> NativeRunner:
        config, weights, num_threads = checkpoint.config, checkpoint.weights, wanted.num_threads
        num_slots = slots_with_room(needs_of(config, precision), wanted, report)
        # First the weights: while they are packed, whoever loads the tokenizer has the interpreter.
        runner = NativeRunner(config, weights, num_slots, precision, num_threads, wanted.kernels)
        check_kernels(precision, num_threads, runner.kernels)
        return runner

    def loss(runner: NativeRunner, num_tokens: int) -> Loss:
        token_ids = sample_ids(tokenizer(), min(num_tokens, checkpoint.config.n_positions))
        exact = reference_runner(checkpoint.config, checkpoint.weights, wanted.num_threads, runner.kernels)
        # Prompts and single tokens have the same bits, and the reference reads all weights anew in every step.
        reference = score(exact, token_ids, num_decoded=0)
        if not reference.is_finite:
            raise checkpoint.overflows()
        return loss_of(score(runner, token_ids), reference)

    if wanted.dtype == "auto":
        runner = build(Precision.INT8)
        refusal = _refusal_of_int8(loss(runner, NUM_TOKENS))
        if refusal is None:
            return runner
        faster = "" if runner.kernels == "scalar" else "; bfloat16, by --dtype bfloat16, is faster on this CPU"
        report(f"{refusal}; computing in float32{faster}")
        del runner  # before another takes as much
    precision = Precision.FLOAT32 if wanted.dtype == "auto" else Precision[wanted.dtype.upper()]
    runner = build(precision)
    _check_sanity(precision, loss(runner, SANITY_TOKENS))  # which a few rows show
    return runner


def _refusal_of_int8(loss: Loss) -> str | None:
    """Why a checkpoint does not run in int8 unless asked to, if it does not."""
    if not loss.is_sane(Precision.INT8):
        return f"int8 is too coarse for this checkpoint, {loss.error:.3g} deviations from float32's logits"
    if not loss.perplexity_ratio <= INT8_LIMIT:
        return f"int8 would raise this checkpoint's perplexity by {100 * (loss.perplexity_ratio - 1):.1f} %"
    return None


def _check_sanity(precision: Precision, loss: Loss) -> None:
    if loss.is_sane(precision):
        return
    if precision is Precision.FLOAT32:
        raise SelfTestFailed(f"the self-test in float32 failed, {loss.error:.3g} deviations from the reference's logits")
    raise ChoiceError(
        f"dtype {precision.label} is asked for, but this checkpoint does not bear it: {loss.error:.3g} deviations from float32's "
        "logits; leave GPT2_DTYPE at auto"
    )


# The two ways to torch, whose import takes a second.


def _cuda_is_available() -> bool:
    from model.torch_choice import cuda_is_available

    return cuda_is_available()


def _torch(checkpoint: Checkpoint, wanted: Wanted, report: Report) -> Chosen:
    from model.torch_choice import choose_torch_runner

    return choose_torch_runner(checkpoint, wanted, report)
