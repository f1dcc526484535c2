"""Prompts with their completions: from JSONL to padded batches in which the completion alone is learned.

A prompt and its completion are tokenised apart, as when the model is served: it is given the prompt's tokens and continues them.
Both are read as the service reads a prompt: added and special tokens in them are tokens, and a prompt begins as every text does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from model.files import replace_file
from model.tokenizer import Reading, Tokenizer
from model.training.corpus import check_characters, is_jsonl, records
from model.training.distributed import Processes
from model.training.errors import TrainingError
from model.training.fused import IGNORED
from model.training.recipe import Recipe
from model.training.trainer import Batch

FIELDS = ("prompt", "completion")
CONTINUATION = Reading(add_special_tokens=False)
VALIDATION_ROWS = 16
# Examples are sorted by length within so many batches: the padding is small, and what makes up a batch is still largely chance.
SORTED_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples laid end to end: prompt, completion and end token each."""

    ids: NDArray[np.int32]  # (sum of lengths,)
    lengths: NDArray[np.int32]  # (N,)
    num_prompt: NDArray[np.int32]  # (N,), tokens of each that are not learned

    def __len__(self) -> int:
        return len(self.lengths)

    def num_targets(self, chosen: NDArray[np.int64]) -> int:
        """Tokens learned from the chosen examples: their completions and end tokens."""
        return int((self.lengths[chosen] - self.num_prompt[chosen]).sum())

    def rows(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of the chosen examples, T as the longest needs; what is not to be learned is IGNORED."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        inputs = np.zeros((len(chosen), int(self.lengths[chosen].max()) - 1), dtype=np.int64)  # nobody sees the padding
        targets = np.full_like(inputs, IGNORED)
        for row, example in enumerate(chosen):
            ids = self.ids[ends[example] - self.lengths[example] : ends[example]]
            first = self.num_prompt[example]
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, first - 1 : len(ids) - 1] = ids[first:]
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def split(self, hold_out_every: int) -> tuple["Examples", "Examples"]:
        """All but each k-th example, and each k-th."""
        held_out = np.arange(len(self)) % hold_out_every == hold_out_every - 1
        return self._where(~held_out), self._where(held_out)

    def _where(self, wanted: NDArray[np.bool_]) -> "Examples":
        return Examples(self.ids[np.repeat(wanted, self.lengths)], self.lengths[wanted], self.num_prompt[wanted])

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"ids": self.ids, "lengths": self.lengths, "num_prompt": self.num_prompt}
        replace_file(file, lambda temporary: save_file(arrays, temporary))

    @classmethod
    def load(cls, file: Path) -> "Examples":
        return cls(**load_file(file))


def hold_examples(files: Sequence[Path]) -> bool:
    """Whether the files hold examples rather than text, by their first lines; files of both kinds at once are refused."""
    kinds = {file: is_jsonl(file) and _begins_with_example(file) for file in files}
    if len(set(kinds.values())) > 1:
        example, text = (next(file for file in files if kinds[file] is kind) for kind in (True, False))
        raise TrainingError(f"{example} holds prompts and completions, {text} text; train on one kind at a time")
    return any(kinds.values())


def _begins_with_example(file: Path) -> bool:
    for number, record in records(file):
        if any(name in record for name in FIELDS):
            return True
        if "text" not in record:
            raise TrainingError(f'{file}, line {number}: neither a "text" nor a "prompt" and a "completion" field')
        return False
    return False


def read_examples(
    files: Sequence[Path], tokenizer: Tokenizer, eos_token_id: int, context: int, report: Callable[[str], None]
) -> Examples:
    """Tokenise all examples that fit into the context; `report` is told how many do not. Those are left out whole: cut, they would
    teach answers to questions that nobody saw, or answers without an end.
    """
    ids: list[int] = []
    lengths: list[int] = []
    num_prompt: list[int] = []
    too_long: list[str] = []
    for file in files:
        for number, record in records(file):
            prompt, completion = (_text(file, number, record, name) for name in FIELDS)
            # An empty prompt is the beginning of a document, which follows an end token.
            prompt_ids = tokenizer.encode(prompt) or [eos_token_id]
            example = [*prompt_ids, *tokenizer.encode(completion, CONTINUATION), eos_token_id]
            if len(example) - 1 > context:
                too_long.append(f"{file}, line {number}")
                continue
            ids += example
            lengths.append(len(example))
            num_prompt.append(len(prompt_ids))
    num_all = len(lengths) + len(too_long)
    if not num_all:
        raise TrainingError(f"there are no examples in {', '.join(map(str, files))}")
    if too_long:
        report(f"{len(too_long):,} of {num_all:,} examples are left out: longer than {context} tokens; the first is {too_long[0]}")
    return Examples(*(np.array(values, dtype=np.int32) for values in (ids, lengths, num_prompt)))


def _text(file: Path, number: int, record: dict[str, object], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise TrainingError(f'{file}, line {number}: no "{name}" field that is a string')
    check_characters(value, f'{file}, line {number}: "{name}"')
    return value


class ExampleData:
    """Batches of examples of like length: one process's share of each, in the recipe's parts.

    A batch is a function of the seed and the step, as in model.training.batches: each epoch draws a new order.
    """

    def __init__(self, train: Examples, validation: Examples, recipe: Recipe, processes: Processes) -> None:
        self._train, self._validation, self._recipe, self._processes = train, validation, recipe, processes
        self.batches_per_epoch = -(-len(train) // recipe.batch_size)
        self._epoch = -1
        self._batches = np.empty((0, 0), dtype=np.int64)  # (batches_per_epoch, batch_size)

    def batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        chosen = self._batches[place]
        # Neighbours in length go to different processes: none waits long for another.
        shares = self._recipe.accumulation * self._processes.num
        first = self._processes.rank * self._recipe.accumulation
        parts = [self._train.rows(chosen[first + part :: shares]) for part in range(self._recipe.accumulation)]
        return Batch(parts, self._train.num_targets(chosen))

    def validation(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.argsort(self._validation.lengths, kind="stable")
        batches = (self._validation.rows(order[i : i + VALIDATION_ROWS]) for i in range(0, len(order), VALIDATION_ROWS))
        return islice(batches, self._processes.rank, None, self._processes.num)

    def _shuffle(self, epoch: int) -> None:
        generator = np.random.Generator(np.random.Philox(key=[self._recipe.seed, epoch]))
        size = self._recipe.batch_size
        # The epoch's last batch is filled up with examples of its beginning.
        order = np.resize(generator.permutation(len(self._train)), self.batches_per_epoch * size)
        groups = (order[i : i + SORTED_BATCHES * size] for i in range(0, len(order), SORTED_BATCHES * size))
        by_length = np.concatenate([group[np.argsort(self._train.lengths[group], kind="stable")] for group in groups])
        self._batches = generator.permutation(by_length.reshape(-1, size))
        self._epoch = epoch
