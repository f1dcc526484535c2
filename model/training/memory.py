"""How much memory a step of training takes, in how many parts it is run to fit, and how it is given back.

Weights, gradients and averages stand whatever the batch; what grows with it is what the forward pass keeps for the backward pass.
"""

import ctypes
import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from model.config import GPT2Config
from model.memory import available_bytes, mega
from model.training.errors import TrainingError
from model.training.recipe import Recipe

# What one part of a step of fine-tuning may keep. On a CPU a window of 512 tokens, 512 wide, in 8 layers: with two of them
# the default checkpoint's peak was 1.31 GB. A GPU wants many rows at once, has the room, and holds the logits.
PART_BYTES = {"cpu": 1 << 27, "cuda": 1 << 33}
LOGIT_BYTES = 14  # of one, where all are held: in bfloat16 and float32, its logarithm, and the gradients of these
# Of pre-training on a CPU, whose network is new and has its averages: all of a batch of the default sizes.
PRETRAINING_PART_BYTES = 1 << 30


def bytes_per_token(config: GPT2Config, length: int, bfloat16: bool, dropout: float = 0.0, checkpointed: bool = False) -> int:
    """What a forward pass over rows of `length` tokens keeps of each token until the backward pass, without the logits.

    A block keeps, of C numbers each: the inputs of its two LayerNorms, in float32 as the residual stream is, and what these give;
    q, k, v and what attention makes of them; 4 C before and after GELU. Dropout adds two masks, and attention that holds its
    weights, (H, T) in float32 four times. Of `checkpointed` blocks all keep their input, and one at a time the rest.
    """
    width, size = config.n_embd, 2 if bfloat16 else 4  # bytes of what goes into a product
    block = 2 * 4 * width + (2 + 4) * width * size + 2 * config.inner_size * size
    if dropout:
        block += 2 * width + 16 * config.n_head * length
    return block + config.n_layer * 4 * width if checkpointed else config.n_layer * block


def num_parts(
    num_rows: int, length: float, config: GPT2Config, recipe: Recipe, device: torch.device, part_bytes: int | None = None
) -> int:
    """The fewest equal parts of a process's rows of about `length` tokens such that one part's activations and logits fit."""
    limit = PART_BYTES[device.type] if part_bytes is None else part_bytes
    a_token = bytes_per_token(config, int(length), recipe.bfloat16, recipe.dropout, recipe.checkpoint_activations)
    if device.type != "cpu":  # where the loss holds a few hundred rows of them at a time
        a_token += LOGIT_BYTES * config.vocab_size
    divisors = {divisor for low in range(1, math.isqrt(num_rows) + 1) if num_rows % low == 0 for divisor in (low, num_rows // low)}
    return min((parts for parts in divisors if num_rows / parts * length * a_token <= limit), default=num_rows)


def check_room(config: GPT2Config, device: torch.device) -> None:
    """Refuse a network that this machine cannot hold while it is trained: weights, gradients and one average, in float32."""
    free_bytes = available_bytes() if device.type == "cpu" else None
    one, two = (replace(config, n_layer=layers).num_parameters for layers in (1, 2))
    num_parameters = one + (config.n_layer - 1) * (two - one)  # of millions of layers each has no name yet
    wanted = 3 * 4 * num_parameters
    if free_bytes is not None and wanted > free_bytes:
        raise TrainingError(
            f"a network of {num_parameters / 1e6:,.0f} M parameters takes {mega(wanted)} and more while it is trained, "
            f"{mega(free_bytes)} are available; a smaller --n-embd, --n-layer or --vocab-size"
        )


def give_back_memory() -> None:
    """Return to the system what is free between tensors, after each part of a step: glibc would keep it, torn into pieces among
    gradients and averages. Without it fine-tuning the default checkpoint grew from 0.9 to 1.6 GB in seven steps and a validation.
    """
    _malloc_trim()(0)


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)  # other C libraries return it by themselves, or never
