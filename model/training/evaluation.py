"""How well a model predicts a text: perplexity a token, and bits per byte. Knows token ids; not files, nor how they became ids."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.gpt2 import GPT2, CausalAttention
from model.packed_linear import packed
from model.training.errors import TrainingError

BATCH_TOKENS = 8192
LOGIT_ROWS = 256  # rows of logits at a time: 50 MB of them for GPT-2's 50,257 tokens
MAX_NATS = 700.0  # a token, on average; beyond it the perplexity is no longer a float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A text of `num_tokens` tokens and `num_bytes` bytes to which the model gives the probability exp(-nats)."""

    nats: float
    num_tokens: int
    num_bytes: int
    context: int
    stride: int
    seconds: float

    @property
    def perplexity(self) -> float:
        """A token's; comparable between models with the same vocabulary alone."""
        return math.exp(self.nats / self.num_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between all models, whatever their vocabularies."""
        return self.nats / math.log(2) / self.num_bytes

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@torch.inference_mode()
def evaluate(
    model: GPT2,
    token_ids: Sequence[int],
    num_bytes: int,
    bfloat16: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Score each token of a text of `num_bytes` bytes once: windows of the whole context, their second half new each time.

    An end token stands before the text for the empty context, so that its first token is scored too. `bfloat16` is that of the
    matrix products alone; sums over tokens are in float64. `on_progress(tokens)` counts what has been scored. The model stays as it
    is.
    """
    context = model.config.n_positions
    if context < 2:
        raise TrainingError(f"the model's context is {context}; to predict a token from another it takes 2 at least")
    if not token_ids:
        raise TrainingError("there is no token to be scored; name a text that is not empty")
    network = _for_inference(model, bfloat16)
    begin, nats = time.monotonic(), 0.0
    ids = torch.tensor([model.config.eos_token_id, *token_ids], device=model.wte.weight.device)
    for windows, scored in _batches(ids, context):
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            nats += _nats(network, windows, scored)
        if on_progress is not None:
            on_progress(int(scored.sum()))
    if not nats < MAX_NATS * len(token_ids):  # nor if it is not a number
        raise TrainingError(f"the loss is {nats / len(token_ids):.4g} nats a token: the model's weights are damaged")
    return Evaluation(nats, len(token_ids), num_bytes, context, context // 2, time.monotonic() - begin)


def _for_inference(model: GPT2, bfloat16: bool) -> GPT2:
    device, dtype = model.wte.weight.device, model.wte.weight.dtype
    if device.type == "cpu" and not bfloat16:
        return packed(model, dtype)  # a seventh faster; the sums differ in their eighth digit
    return model.for_inference(device, dtype)


def _batches(ids: Tensor, context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows (B, T) of ids, T = context or the whole text if that is shorter, and which targets (B, T - 1) nobody scored before.

    A window begins half a context after the one before; the last one as early as it must to be whole.
    """
    length, stride = min(context, len(ids)), context // 2
    last = len(ids) - length
    starts = torch.tensor([*range(0, last, stride), last], device=ids.device)
    scored_to = torch.cat([starts.new_ones(1), starts[:-1] + length])  # the first id is the end token, which is given
    rows = max(1, BATCH_TOKENS // length)
    for some_starts, some_scored_to in zip(torch.split(starts, rows), torch.split(scored_to, rows), strict=True):
        places = some_starts[:, None] + torch.arange(length, device=ids.device)  # (B, T)
        yield ids[places], places[:, 1:] >= some_scored_to[:, None]


def _nats(model: GPT2, windows: Tensor, scored: Tensor) -> float:
    """-log p of the targets (B, T - 1) to be scored; the others never meet the output head, the largest of all matrices."""
    positions = torch.arange(scored.shape[1], device=windows.device)
    hidden = model.hidden_states(windows[:, :-1], positions, CausalAttention())[scored]  # (N, C)
    targets = windows[:, 1:][scored]  # (N,)
    total = torch.zeros((), dtype=torch.float64, device=windows.device)
    for some_hidden, some_targets in zip(torch.split(hidden, LOGIT_ROWS), torch.split(targets, LOGIT_ROWS), strict=True):
        logits = model.lm_head(some_hidden).float()  # (LOGIT_ROWS, V)
        total += F.cross_entropy(logits, some_targets, reduction="none").double().sum()
    return total.item()
