"""Examples as token ids: what is read, what is learned of it, and which ones are held out. Knows neither files nor text."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from model.files import replace_file
from model.training.damage import damage_named

IGNORED = -100  # a target that is not to be learned, as in torch.nn.functional.cross_entropy
Question = tuple[list[int], list[int]]  # a prompt's ids, and those of what is to follow it


@dataclass(frozen=True, slots=True)
class Example:
    """What is read, and the token to be foretold behind each token of it; IGNORED where none is learned."""

    ids: list[int]
    targets: list[int]  # as many

    @classmethod
    def of(cls, prompt: list[int], learned: list[int]) -> "Example":
        """A prompt of one token at least, and what is learned to follow it."""
        return cls([*prompt, *learned[:-1]], [IGNORED] * (len(prompt) - 1) + learned)


@dataclass(frozen=True)
class Examples:
    """Examples laid end to end."""

    ids: NDArray[np.int32]  # (sum of lengths,)
    targets: NDArray[np.int32]  # the same
    lengths: NDArray[np.int32]  # (N,)

    @classmethod
    def of(cls, examples: Iterable[Example]) -> "Examples":
        """Holds 8 bytes a token of them, one after another."""
        ids, targets, lengths = array("i"), array("i"), array("i")
        for example in examples:
            ids.extend(example.ids)
            targets.extend(example.targets)
            lengths.append(len(example.ids))
        return cls(*(np.array(values, dtype=np.int32) for values in (ids, targets, lengths)))

    @classmethod
    def concatenated(cls, *parts: "Examples") -> "Examples":
        names = ("ids", "targets", "lengths")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, chosen: NDArray[np.int64]) -> "Examples":
        """The chosen ones, in the order given."""
        begins = self._begins
        places = [np.arange(begins[i], begins[i] + self.lengths[i]) for i in chosen]
        taken = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
        return Examples(self.ids[taken], self.targets[taken], self.lengths[chosen])

    def num_targets(self, chosen: NDArray[np.int64]) -> int:
        """Tokens learned from the chosen examples."""
        return int((self[chosen].targets != IGNORED).sum())

    def rows(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets (B, T) of the chosen examples, T as the longest needs."""
        begins = self._begins
        inputs = np.zeros((len(chosen), int(self.lengths[chosen].max())), dtype=np.int64)  # nobody sees the padding
        targets = np.full_like(inputs, IGNORED)
        for row, example in enumerate(chosen):
            begin, length = begins[example], self.lengths[example]
            inputs[row, :length] = self.ids[begin : begin + length]
            targets[row, :length] = self.targets[begin : begin + length]
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def questions(self, max_questions: int, max_tokens: int) -> list[Question]:
        """The first examples whose last words learned, with their end, have at most `max_tokens`: what precedes these, and they."""
        found: list[Question] = []
        for begin, length in zip(self._begins, self.lengths, strict=True):
            if len(found) == max_questions:
                break
            ids, targets = (values[begin : begin + length].tolist() for values in (self.ids, self.targets))
            last = max(i for i, token in enumerate(targets) if token != IGNORED)
            first = max((i + 1 for i in range(last) if targets[i] == IGNORED), default=0)
            if last + 1 - first <= max_tokens:
                found.append((ids[: first + 1], targets[first : last + 1]))
        return found

    def split_places(self, num_held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of those to train on, and of about `num_held_out` for validation: chosen by a hash of what they hold, and in
        its order.

        So neither the order of a file nor its kinds decide, and examples that are the same fall on one side. There are more than
        asked for only where all that occur once are too few, and one example many times over is on both sides.
        """
        places = self._places_by_hash()
        fitting, num_left = [], num_held_out
        for same in places:
            if len(same) <= num_left:
                fitting.append(same)
                num_left -= len(same)
        if len(places) == 1:
            return np.array(places[0][1:]), np.array(places[0][:1])
        held_out = np.array([place for same in fitting or [min(places, key=len)] for place in same])
        return np.setdiff1d(np.arange(len(self)), held_out), held_out

    def _places_by_hash(self) -> list[list[int]]:
        """The numbers of the examples, those that are the same together, in the order of their hashes."""
        places: dict[bytes, list[int]] = {}
        for number, digest in enumerate(self._digests()):
            places.setdefault(digest, []).append(number)
        return [places[digest] for digest in sorted(places)]

    def num_among(self, others: "Examples") -> int:
        """How many examples, read and learned alike, are also among others."""
        known = set(others._digests())
        return sum(digest in known for digest in self._digests())

    def _digests(self) -> Iterator[bytes]:
        for begin, length in zip(self._begins, self.lengths, strict=True):
            contents = (values[begin : begin + length].tobytes() for values in (self.ids, self.targets))
            yield hashlib.blake2b(b"".join(contents), key=b"held out", digest_size=16).digest()

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"ids": self.ids, "targets": self.targets, "lengths": self.lengths}
        replace_file(file, lambda temporary: save_file(arrays, temporary))

    @classmethod
    def load(cls, file: Path) -> "Examples":
        with damage_named(file):
            return cls(**load_file(file))
