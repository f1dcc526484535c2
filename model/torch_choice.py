"""PyTorch's part of the choice: its runner, for CUDA and for CPUs without the native step, built and tested."""

import time

import torch

from model.batch import Chunk, Draw, ForwardBatch, SamplingParams
from model.checkpoint import Checkpoint
from model.choice import ChoiceError, Chosen, Report, Wanted
from model.gpt2 import GPT2
from model.network_files import Progress, network_of
from model.packed_linear import packs_bfloat16
from model.runner import TorchRunner

SELF_TEST_LENGTH = 8
# How far below the plain network's best logit the runner's choice may lie, in standard deviations of the logits: rounding, no more.
SELF_TEST_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.5}
PROGRESS_SECONDS = 2.0


def cuda_is_available() -> bool:
    return torch.cuda.is_available()


def choose_torch_runner(checkpoint: Checkpoint, wanted: Wanted, report: Report) -> Chosen:
    """TorchRunner on `wanted.device`, cpu or cuda, in the precision that is asked for; auto is bfloat16 on cuda, else float32."""
    default = torch.bfloat16 if wanted.device == "cuda" else torch.float32
    dtype = {"auto": default, "float32": torch.float32, "bfloat16": torch.bfloat16}[wanted.dtype]
    if wanted.device == "cpu":
        torch.set_num_threads(wanted.num_threads)
        if dtype is torch.bfloat16 and not packs_bfloat16():
            raise ChoiceError(
                "dtype bfloat16 is asked for, but PyTorch needs AVX512BW or AVX-NE-CONVERT for it, which this CPU lacks; it "
                "computes in float32, with GPT2_DTYPE at auto"
            )
    model = network_of(checkpoint, _told_to(report))
    try:
        runner = TorchRunner(model, wanted.num_slots, wanted.chunk_size, torch.device(wanted.device), dtype)
    except RuntimeError as error:
        if "memory" in str(error).lower():  # torch says it so
            raise MemoryError(str(error)) from error
        raise ChoiceError(f"the model cannot run in {dtype} on {wanted.device} here: {error}") from error
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
