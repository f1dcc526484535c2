"""Draws from given logits by PyTorch's sampler, with the tokens that came before: what the tests of both samplers ask."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.batch import Draw, SamplingParams
from model.history import History
from model.sampler import DrawRow, Sampler, SamplingPlan, log_softmax
from model.upload import Upload


class Asked(NamedTuple):
    """A draw at a position, after a prompt and generated tokens; where nothing penalises, only the position matters."""

    draw: Draw
    prompt: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    position: int = 0

    @property
    def length(self) -> int:
        return len(self.prompt + self.generated) if self.draw.params.penalises else self.position


def asked(
    params: SamplingParams,
    position: int = 0,
    prompt: tuple[int, ...] = (),
    generated: tuple[int, ...] = (),
    **fields: object,
) -> Asked:
    """`fields` are further ones of the draw."""
    return Asked(Draw(0, params, num_prompt=len(prompt), **fields), prompt, generated, position)


class Drawing:
    """A sampler and the plan of a draw for each row, with the tokens of each in a slot of its own."""

    def __init__(self, wanted: Sequence[Asked], device: torch.device = torch.device("cpu")) -> None:  # noqa: B008
        history = History(len(wanted), max(len(one.prompt + one.generated) for one in wanted) + 1, device)
        for slot, one in enumerate(wanted):
            tokens = torch.tensor(one.prompt + one.generated, dtype=torch.int64, device=device)
            history.write(torch.full_like(tokens, slot), torch.arange(len(tokens), device=device), tokens)
        self.sampler, self.upload = Sampler(history, device), Upload(device)
        self.plan = SamplingPlan([DrawRow(slot, one.length, one.draw) for slot, one in enumerate(wanted)], self.upload)
        self.upload.send()

    def adjusted(self, logits: Tensor) -> Tensor:
        """(B, V), after bias, penalties, bans and masks."""
        return self.sampler.adjust(logits, self.plan, self.upload)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, V), of the rows that are sampled."""
        return self.sampler.probabilities(self.adjusted(logits), self.plan, self.upload)

    def draw(self, logits: Tensor) -> list[list[float]]:
        return self.sampler.draw(logits, log_softmax(logits), self.plan, self.upload).tolist()
