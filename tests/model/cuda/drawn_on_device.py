"""Draws from given logits by the kernels that sample, each a record with a slot of its own: what their tests ask."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.batch import SamplingParams
from model.cuda.kernels.adjust import adjust, adjust_twin
from model.cuda.kernels.choose import choose, choose_twin
from model.cuda.kernels.filters import filters, filters_twin
from model.cuda.kernels.log_sums import log_sums, log_sums_twin
from model.cuda.kernels.parts import PART, parts, parts_twin
from model.cuda.records import SIZE, Field, Status
from tests.model.drawing import Asked

HEAD_TILE = 64
N_POSITIONS = 150
NUM_STEPS = 4

Launch = Callable[..., None]
KERNELS: tuple[Launch, ...] = (log_sums, adjust, filters, parts, choose)
TWINS: tuple[Launch, ...] = (log_sums_twin, adjust_twin, filters_twin, parts_twin, choose_twin)


def word(value: float) -> int:
    """A float64's bits, or a 64-bit number's, as the int64 that has them."""
    return int(struct.unpack("<q", struct.pack("<d", value) if isinstance(value, float) else struct.pack("<Q", value))[0])


def record(one: Asked, slot: int) -> list[int]:
    params, words = one.draw.params, [0] * SIZE
    fields = {
        Field.ROW: 77,
        Field.SLOT: slot,
        Field.LENGTH: one.length,
        Field.NUM_LEFT: one.draw.max_new,
        Field.NUM_PROMPT: one.draw.num_prompt,
        Field.SEED: params.seed,
        Field.TOP_K: params.top_k,
        Field.NUM_BANNED: len(one.draw.banned_ids),
        Field.NUM_ENDS: len(one.draw.end_ids),
        Field.TEMPERATURE: float(params.temperature),
        Field.TOP_P: float(params.top_p),
        Field.MIN_P: float(params.min_p),
        Field.TYPICAL_P: float(params.typical_p),
        Field.REPETITION: float(params.repetition_penalty),
        Field.FREQUENCY: float(params.frequency_penalty),
        Field.PRESENCE: float(params.presence_penalty),
    }
    for field, value in fields.items():
        words[field] = word(value)
    words[Field.BANNED : Field.BANNED + len(one.draw.banned_ids)] = one.draw.banned_ids
    words[Field.ENDS : Field.ENDS + len(one.draw.end_ids)] = one.draw.end_ids
    return words


def records(wanted: Sequence[Asked], device: torch.device) -> Tensor:
    return torch.tensor([record(one, slot) for slot, one in enumerate(wanted)], dtype=torch.int64, device=device)


class DeviceDraws:
    """All that a step's draws lie in on the device; what has not been written holds what would be noticed."""

    def __init__(self, wanted: Sequence[Asked], device: torch.device, launches: tuple[Launch, ...] = KERNELS) -> None:
        num_draws, ints = len(wanted), {"dtype": torch.int32, "device": device}
        self.log_sums, self.adjust, self.filters, self.parts, self.choose = launches
        self.draws = records(wanted, device)
        self.history = torch.full((num_draws + 1, N_POSITIONS), 10**12, dtype=torch.int64, device=device)
        for slot, one in enumerate(wanted):
            tokens = one.prompt + one.generated
            self.history[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        self.saved = torch.full((num_draws, N_POSITIONS), torch.nan, device=device)
        self.output = torch.zeros(NUM_STEPS, 3, num_draws, **ints)
        self.rows = {name: torch.full((num_draws + 1,), -7, **ints) for name in ROW_FIELDS}  # one row more than draws

    def step(self, logits: Tensor) -> Tensor:
        """The float32 logits (B, V) as the draws of a step have left them."""
        (num_draws, vocab_size), device = logits.shape, logits.device
        head_maxima, head_sums = head_tiles(logits)
        num_parts = -(-vocab_size // PART)
        maxima = torch.full((num_draws, num_parts), torch.nan, device=device)
        ids = torch.full((num_draws, num_parts), -7, dtype=torch.int32, device=device)
        sums = torch.full((num_draws, num_parts), torch.nan, dtype=torch.float64, device=device)
        logits = logits.clone()
        self.adjust(logits, self.saved, self.history, self.draws)
        self.filters(logits, self.draws)
        self.parts(maxima, ids, sums, logits, self.draws)
        log_sums = torch.full((num_draws,), torch.nan, dtype=torch.float64, device=device)
        self.log_sums(log_sums, head_maxima, head_sums)
        network = (logits, self.saved, self.history, log_sums)
        self.choose(self.output, *self.rows.values(), self.draws, *network, maxima, ids, sums)
        return logits

    def told(self, step: int = 0) -> list[tuple[int, float, Status]]:
        """Token, log-probability and status of each draw."""
        ids, logprobs, statuses = self.output[step].cpu()
        triples = zip(ids.tolist(), logprobs.view(torch.float32).tolist(), statuses.tolist(), strict=True)
        return [(token, logprob, Status(status)) for token, logprob, status in triples]

    def state(self) -> dict[str, Any]:
        """All that the next step sees."""
        return {"draws": self.draws.tolist(), **{name: values.tolist() for name, values in self.rows.items()}}


ROW_FIELDS = "token_ids", "positions", "slots", "tile_rows", "tile_sizes"


def head_tiles(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima and sums of exp(logit - maximum) of tiles of 64 tokens, as the head leaves them: 2 x (B, NT)."""
    size = logits.shape[-1]
    tiles = torch.nn.functional.pad(logits, (0, -size % HEAD_TILE), value=-torch.inf).unflatten(-1, (-1, HEAD_TILE))  # (B, NT, 64)
    maxima = tiles.amax(dim=-1)
    return maxima, (tiles - maxima[..., None]).exp().sum(dim=-1)


def gaussian(seed: int, rows: int, size: int, spread: float = 3.0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


def quantised(seed: int, rows: int, size: int) -> Tensor:
    """Few values, each many times: ties wherever a filter cuts."""
    return (gaussian(seed, rows, size) * 2).round() / 2


def some_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.2, 0.9, 1.0, 2.5]),
        top_k=rng.choice([0, 1, 2, 30, 200, 2**31]),
        top_p=rng.choice([1.0, 0.2, 0.93, 0.999]),
        min_p=rng.choice([0.0, 0.0, 0.003, 0.3, 1.0]),
        typical_p=rng.choice([1.0, 0.31, 0.917]),
        seed=rng.randrange(2**64),
    )
