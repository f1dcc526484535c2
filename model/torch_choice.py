"""The part of the choice that needs torch: on CUDA, and on CPUs without the native step; a runner built and tested."""

import time
from typing import NamedTuple

import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import Checkpoint
from model.choice import ChoiceError, Chosen, Report, Wanted, slots_with_room
from model.config import GPT2Config
from model.cuda.choice import KernelsFailed, choose_cuda_runner, choose_precision, choose_slots
from model.gpt2 import GPT2
from model.memory import NUM_SLOTS, Needs
from model.network_files import Progress, network_of
from model.packed_linear import packs_bfloat16
from model.runner import TorchRunner

SELF_TEST_LENGTH = 8
# How far below the plain network's best logit the runner's choice may lie, in standard deviations of the logits: rounding, no more.
SELF_TEST_TOLERANCE = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.5}
PROGRESS_SECONDS = 2.0
OTHER_BYTES = 50_000_000  # on a CPU, beyond what the process had with torch imported; measured: 30 MB at the most


def cuda_is_available() -> bool:
    return torch.cuda.is_available()


def choose_torch_runner(checkpoint: Checkpoint, wanted: Wanted, report: Report) -> Chosen:
    """CudaRunner on cuda, or where its kernels fail TorchRunner, which is also for cpu; in the precision that is asked for."""
    if wanted.device == "cuda":
        return _on_cuda(checkpoint, wanted, report)
    torch.set_num_threads(wanted.num_threads)
    if wanted.dtype == "bfloat16" and not packs_bfloat16():
        raise ChoiceError(
            "dtype bfloat16 is asked for, but PyTorch needs AVX512BW or AVX-NE-CONVERT for it, which this CPU lacks; it "
            "computes in float32, with GPT2_DTYPE at auto"
        )
    dtype = torch.bfloat16 if wanted.dtype == "bfloat16" else torch.float32
    wanted = wanted._replace(num_slots=slots_with_room(needs_of(checkpoint.config, dtype.itemsize), wanted, report))
    return _plain(network_of(checkpoint, _told_to(report)), wanted, torch.device("cpu"), dtype)


def needs_of(config: GPT2Config, itemsize: int) -> Needs:
    """Of TorchRunner on a CPU: the network in float32, until what computes is packed beside it; one slot more is for padding."""
    slot = 2 * config.n_layer * config.n_positions * config.n_embd * itemsize
    return Needs("bfloat16" if itemsize == 2 else "float32", config.num_parameters * (4 + itemsize), slot, slot + OTHER_BYTES)


class Card(NamedTuple):
    """What will compute on a card, and in how many slots; the bytes are those of its memory that are free."""

    device: torch.device
    name: str
    capability: tuple[int, int]
    dtype: torch.dtype
    num_slots: int
    free_bytes: int


def choose_card(config: GPT2Config, wanted: Wanted, report: Report) -> Card:
    """Raises ChoiceError, and MemoryError for more slots than have room."""
    device = torch.device("cuda", torch.cuda.current_device())
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    dtype = choose_precision(wanted, capability, name, report)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return Card(device, name, capability, dtype, choose_slots(config, wanted.num_slots, dtype, free_bytes, report), free_bytes)


def _on_cuda(checkpoint: Checkpoint, wanted: Wanted, report: Report) -> Chosen:
    card = choose_card(checkpoint.config, wanted, report)
    device, dtype, num_slots = card.device, card.dtype, card.num_slots
    model = network_of(checkpoint, _told_to(report))
    if wanted.kernels != "torch":
        try:
            return choose_cuda_runner(model, num_slots, device, dtype, report)
        except KernelsFailed as error:
            if wanted.kernels == "triton":
                raise ChoiceError(f"kernels triton are asked for, but {error}; leave GPT2_KERNELS at auto") from error
            report(f"computing with plain PyTorch in place of Triton's kernels: {error}")
    # Its steps are as wide as there are slots, whoever is in them.
    return _plain(model, wanted._replace(num_slots=wanted.num_slots or min(num_slots, NUM_SLOTS)), device, dtype)


def _plain(model: GPT2, wanted: Wanted, device: torch.device, dtype: torch.dtype) -> Chosen:
    try:
        runner = TorchRunner(model, wanted.num_slots, wanted.chunk_size, device, dtype)
    except RuntimeError as error:
        if "memory" in str(error).lower():  # torch says it so
            raise MemoryError(str(error)) from error
        raise ChoiceError(f"the model cannot run in {dtype} on {device} here: {error}") from error
    _self_test(runner, model, SELF_TEST_TOLERANCE[dtype])
    label = str(dtype).removeprefix("torch.")
    return Chosen(runner, label, "torch", "torch", f"torch-{label}", runner.cache.data.nbytes)


@torch.inference_mode()
def _self_test(runner: TorchRunner, model: GPT2, tolerance: float) -> None:
    """Raise ChoiceError unless the runner's greedy choice is nearly the plain network's."""
    num_tokens = min(SELF_TEST_LENGTH, runner.chunk_size, runner.max_positions)
    token_ids = tuple(i % runner.vocab_size for i in range(1, num_tokens + 1))
    expected = model.eval()(torch.tensor([token_ids]))[0, -1]  # (V,)
    draw = Draw(num_tokens - 1, SamplingParams())
    (output,) = runner.launch(ForwardBatch((Chunk(0, 0, token_ids, (draw,)),))).collect().chunks
    if output.error is not None:
        raise ChoiceError(f"self-test failed: {output.error}")
    token_id = output.tokens[0][0].token_id
    gap = (expected.max() - expected[token_id]) / expected.std()
    if not gap <= tolerance:
        raise ChoiceError(f"self-test failed: the runner's token {token_id} is {gap:.3f} deviations below the network's choice")


def _told_to(report: Report) -> Progress:
    """A line every few seconds: a small checkpoint is there before anybody wonders."""
    last = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            report(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB of weights are read")

    return on_progress
