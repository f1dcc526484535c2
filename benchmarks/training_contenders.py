"""What benchmarks.training_speed compares, one a process: our trainer, `transformers` in a plain loop, a product of matrices."""

import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import GPT2Config as TransformersConfig
from transformers import GPT2LMHeadModel

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.training.data.source import Batch
from model.training.precision import compare_products
from model.training.recipe import Recipe
from model.training.trainer import Step, Trainer, Validation

NUM_UNCOUNTED = 2  # steps: the first compiles and allocates
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRODUCT_SIDE = 8192 if DEVICE.type == "cuda" else 4096


def our_rate(config: GPT2Config, batch_size: int, steps: int, optimizer: str, compiled: bool) -> float:
    """Tokens a second of a median step of ours, in bfloat16 where that pays."""
    windows = random_windows(config, batch_size, config.n_positions + 1)
    model = GPT2(config).init_weights(torch.Generator().manual_seed(0)).to(DEVICE)
    recipe = Recipe(
        max_steps=1 << 20,  # stopped before, so that no validation comes in between
        validate_every=1 << 20,
        batch_size=batch_size,
        optimizer="muon" if optimizer == "muon" else "adamw",
        windows=((0.0, 1),),
        bfloat16=compare_products(DEVICE, config.n_embd).bfloat16_pays,
        compiled=compiled,
    )
    watch = _Watch(NUM_UNCOUNTED + steps)
    watch.trainer = Trainer(model, _OneBatch(windows), recipe, watch)
    watch.trainer.run()
    return statistics.median(watch.rates[NUM_UNCOUNTED:])


class _OneBatch:
    """The same windows at every step."""

    def __init__(self, windows: Tensor) -> None:
        self._parts = [(windows[:, :-1], windows[:, 1:])]

    def batch(self, step: int) -> Batch:
        return Batch(self._parts, self._parts[0][1].numel())

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError("the run is stopped before")


class _Watch:
    """Keeps each step's rate, and stops the trainer after `num_steps`."""

    trainer: Trainer

    def __init__(self, num_steps: int) -> None:
        self.rates: list[float] = []
        self._num_steps = num_steps

    def on_step(self, step: Step) -> None:
        self.rates.append(step.num_tokens / step.seconds)
        if len(self.rates) == self._num_steps:
            self.trainer.stop()

    def on_validation(self, validation: Validation) -> None: ...

    def on_checkpoint(self) -> None: ...


def transformers_rate(config: GPT2Config, batch_size: int, steps: int, bfloat16: bool) -> float:
    """Tokens a second of a median step of the loop that everybody writes; no dropout, as in ours."""
    tokens = random_windows(config, batch_size, config.n_positions).to(DEVICE)
    torch.manual_seed(0)
    fields = {name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "eos_token_id")}
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    peer = TransformersConfig(**fields, **dropouts, bos_token_id=config.eos_token_id)
    model = GPT2LMHeadModel(peer).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seconds = []
    for _ in range(NUM_UNCOUNTED + steps):
        started = time.perf_counter()
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # everybody prints it; a GPU has then finished the step
        seconds.append(time.perf_counter() - started)
    return tokens.numel() / statistics.median(seconds[NUM_UNCOUNTED:])


def product_rate() -> float:
    """Operations a second of two large matrices' product, the fastest of ten: the processor's peak, in bfloat16 if it has it."""
    dtype = torch.bfloat16 if compare_products(DEVICE, PRODUCT_SIDE).bfloat16_pays else torch.float32
    a, b = (torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device=DEVICE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # a GPU has then finished
        seconds.append(time.perf_counter() - started)
    return 2 * PRODUCT_SIDE**3 / min(seconds)


def random_windows(config: GPT2Config, batch_size: int, length: int) -> Tensor:
    return torch.randint(config.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(0))
