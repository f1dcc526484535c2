"""Token ids on disk: text is tokenised once into shards, which are memory-mapped from then on.

    DIRECTORY/index.json           what was tokenised, by which vocabulary, and the shards' sizes
    DIRECTORY/train-00000.bin      ids, little-endian, 16 bits each or 32 where the vocabulary needs them
    DIRECTORY/validation-00000.bin

Each document begins with the end token, as in GPT-2's training. The last part of each file is held out for validation.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.files import naming, replace_file
from model.tokenizer import PLAIN_TEXT, Tokenizer
from model.training.corpus import documents
from model.training.errors import TrainingError

TOKENS_PER_SHARD = 1 << 26
HELD_OUT_BYTES = 4_000_000  # of text for validation, at most; more would only cost time
FORMAT = 1

Ids = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class TokenShards:
    """The token ids of a corpus in two splits, each a list of memory-mapped shards."""

    train: list[Ids]
    validation: list[Ids]
    num_bytes: int  # of UTF-8 text, both splits

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.train)) + sum(map(len, self.validation))


def tokenize(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    directory: Path,
    validation_fraction: float | None,
    on_progress: Callable[[int], object] | None = None,
) -> TokenShards:
    """Tokenise the files into `directory`, or map what an earlier call made there from the same files and vocabulary.

    `validation_fraction` None holds out 10 %, but no more than is worth measuring. `on_progress(bytes)` counts the text read.
    """
    wanted = _fingerprint(files, tokenizer, validation_fraction)
    if _read_index(directory).get("fingerprint") != wanted:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        _write(files, tokenizer, directory, validation_fraction, wanted, on_progress)
    return map_shards(directory)


def _write(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    directory: Path,
    validation_fraction: float | None,
    fingerprint: str,
    on_progress: Callable[[int], object] | None,
) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    splits = {name: _ShardWriter(directory, name, dtype) for name in ("train", "validation")}
    num_bytes = 0
    fraction = validation_fraction if validation_fraction is not None else _default_fraction(files)
    for file in files:
        pieces = []
        for text in documents(file):
            pieces.append(np.array([tokenizer.eos_token_id, *tokenizer.encode(text, PLAIN_TEXT)], dtype=dtype))
            num_bytes += (size := len(text.encode()))
            if on_progress is not None:
                on_progress(size)
        if pieces:
            ids = np.concatenate(pieces)
            border = len(ids) - int(len(ids) * fraction)
            splits["train"].append(ids[:border])
            splits["validation"].append(ids[border:])
    shards = {name: writer.close() for name, writer in splits.items()}
    if not any(shards["train"]):
        raise TrainingError(f"there is no text in {', '.join(map(str, files))}")
    index = {"format": FORMAT, "fingerprint": fingerprint, "dtype": dtype.str, "num_bytes": num_bytes, "shards": shards}
    described = json.dumps(index, indent=2) + "\n"
    replace_file(directory / "index.json", lambda file: file.write_text(described))  # last: without it the shards are not believed


def _default_fraction(files: Sequence[Path]) -> float:
    """10 %, or what makes HELD_OUT_BYTES."""
    return min(0.1, HELD_OUT_BYTES / max(1, sum(file.stat().st_size for file in files)))


class _ShardWriter:
    """Appends ids to files NAME-00000.bin, NAME-00001.bin, ...; a file is closed once it has TOKENS_PER_SHARD."""

    def __init__(self, directory: Path, name: str, dtype: np.dtype[np.unsignedinteger]) -> None:
        self._directory, self._name, self._dtype = directory, name, dtype
        self._sizes: list[int] = [0]

    def append(self, ids: Ids) -> None:
        if self._sizes[-1] >= TOKENS_PER_SHARD:
            self._sizes.append(0)
        file = self._directory / f"{self._name}-{len(self._sizes) - 1:05}.bin"
        with naming(file), file.open("ab") as shard:
            shard.write(ids.tobytes())
        self._sizes[-1] += len(ids)

    def close(self) -> list[int]:
        return [size for size in self._sizes if size]


def _fingerprint(files: Sequence[Path], tokenizer: Tokenizer, validation_fraction: float | None) -> str:
    """Changes with the files' names, sizes and dates, the vocabulary and the split."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    described = [FORMAT, stats, validation_fraction, tokenizer.vocab, tokenizer.merges]
    described += [hashlib.sha256(contents).hexdigest() for _, contents in sorted(tokenizer.files.items())]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _read_index(directory: Path) -> dict[str, object]:
    try:
        index = json.loads((directory / "index.json").read_text())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def map_shards(directory: Path) -> TokenShards:
    """Map what `tokenize` made; raises TrainingError if it is not there whole."""
    try:
        index = json.loads((directory / "index.json").read_text())
        splits: dict[str, list[Ids]] = {}
        for name, sizes in index["shards"].items():
            files = (directory / f"{name}-{number:05}.bin" for number in range(len(sizes)))
            splits[name] = [
                np.memmap(file, dtype=index["dtype"], mode="r", shape=(size,)) for file, size in zip(files, sizes, strict=True)
            ]
        return TokenShards(splits["train"], splits["validation"], index["num_bytes"])
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"the tokenised text in {directory} is damaged ({error}); begin anew with another --out") from error
