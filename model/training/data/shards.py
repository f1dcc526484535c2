"""Token ids on disk: text is tokenised once into shards, which are memory-mapped from then on.

    DIRECTORY/index.json           what was tokenised, by which vocabulary, the shards' sizes, and which are of which set
    DIRECTORY/train-00000.bin      ids, little-endian, 16 bits each or 32 where the vocabulary needs them
    DIRECTORY/validation-00000.bin

Each document begins with the end token, as in GPT-2's training. So does a part that is held out, and what comes after it: nothing
is foretold from what does not stand before it. Text is never in memory as a whole.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.files import naming, replace_file
from model.tokenizer import PLAIN_TEXT, Reading, Tokenizer
from model.training.damage import damage_named
from model.training.data.corpus import Corpus, Part
from model.training.data.encoding import PieceEncoder
from model.training.data.held_out import HeldOut, pieces
from model.training.errors import TrainingError

TOKENS_PER_SHARD = 1 << 26
HELD_OUT_BYTES = 4_000_000  # of text for validation, at most; more would only cost time
FORMAT = 2
WRITTEN_TOKENS = 1 << 16  # at a time

Ids = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class TokenShards:
    """The token ids of a corpus in two splits, each a list of memory-mapped shards."""

    train: list[Ids]
    validation: list[Ids]
    num_bytes: int  # of UTF-8 text, both splits
    set_sizes: Sequence[int] = ()  # how many shards of `train` each set has; none for one set
    weights: Sequence[float] = ()  # of the sets

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.train)) + sum(map(len, self.validation))


def tokenize(
    corpus: Corpus,
    tokenizer: Tokenizer,
    directory: Path,
    validation_fraction: float | None,
    on_progress: Callable[[int], object] | None = None,
    reading: Reading = PLAIN_TEXT,
) -> TokenShards:
    """Tokenise the corpus into `directory`, or map what an earlier call made there from the same files and vocabulary.

    `validation_fraction` None holds out 10 %, but no more than is worth measuring; where the corpus has files for validation,
    nothing else is held out. `on_progress(bytes)` counts the text read.
    """
    wanted = _fingerprint(corpus, tokenizer, validation_fraction, reading)
    if _read_index(directory).get("fingerprint") != wanted:
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        fraction = 0.0 if corpus.validation else validation_fraction or min(0.1, HELD_OUT_BYTES / corpus.num_bytes)
        writer = _CorpusWriter(corpus, tokenizer, reading, directory, on_progress or (lambda num_bytes: None))
        index = {"format": FORMAT, "fingerprint": wanted} | writer.write(fraction)
        described = json.dumps(index, indent=2) + "\n"
        replace_file(directory / "index.json", lambda file: file.write_text(described))  # last: without it no shard is believed
    return map_shards(directory)


class _CorpusWriter:
    """Writes documents as they are read, each split's one after the other."""

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, reading: Reading, directory: Path, on_progress: Callable[[int], object]
    ) -> None:
        self._corpus, self._tokenizer, self._reading, self._on_progress = corpus, tokenizer, reading, on_progress
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._train, self._validation = (_ShardWriter(directory, name, self._dtype) for name in ("train", "validation"))
        self._encoder = PieceEncoder(tokenizer, reading)
        self._split = self._train  # of what was written last
        self._num_bytes = 0

    def write(self, fraction: float) -> dict[str, object]:
        """The index of what was written."""
        set_sizes = [self._write_set(texts.files, HeldOut(texts.num_chars, fraction)) for texts in self._corpus.sets]
        for file in self._corpus.validation:
            for part in self._corpus.parts(file):
                self._write(part, self._validation)
        self._end()
        shards = {"train": self._train.close(), "validation": self._validation.close()}
        if not all(set_sizes):
            raise TrainingError("so much is held out that nothing is left to train on; a smaller --validation-fraction helps")
        index = {"dtype": self._dtype.str, "num_bytes": self._num_bytes, "shards": shards}
        return index | {"set_sizes": set_sizes, "weights": self._corpus.weights}

    def _write_set(self, files: Sequence[Path], held_out: HeldOut) -> int:
        """How many shards to train on it makes."""
        place = 0
        before = self._train.num_shards
        for file in files:
            for part in pieces(self._corpus.parts(file), held_out.longest, held_out.cut):
                begin, place = place, place + len(part.text)
                self._write(part, self._validation if held_out.holds(begin, place) else self._train)
        self._end()
        self._train.begin_shard()
        return self._train.num_shards - before

    def _write(self, part: Part, split: "_ShardWriter") -> None:
        if part.begins or split is not self._split:
            self._end()
            self._split = split
            split.append([self._end_token_id])
        self._split.append(self._encoder.feed(part.text))
        self._num_bytes += (size := len(part.text.encode()))
        self._on_progress(size)

    def _end(self) -> None:
        self._split.append(self._encoder.finish())

    @property
    def _end_token_id(self) -> int:
        assert self._tokenizer.eos_token_id is not None
        return self._tokenizer.eos_token_id


class _ShardWriter:
    """Appends ids to files NAME-00000.bin, NAME-00001.bin, ...; a file is closed once it has TOKENS_PER_SHARD."""

    def __init__(self, directory: Path, name: str, dtype: np.dtype[np.unsignedinteger]) -> None:
        self._directory, self._name, self._dtype = directory, name, dtype
        self._sizes: list[int] = [0]
        self._waiting: list[int] = []

    @property
    def num_shards(self) -> int:
        """Those that have begun."""
        return len(self._sizes) - (not self._sizes[-1])

    def append(self, ids: Sequence[int]) -> None:
        self._waiting += ids
        if len(self._waiting) >= min(WRITTEN_TOKENS, TOKENS_PER_SHARD):
            self._flush()

    def begin_shard(self) -> None:
        """Let what follows begin another file."""
        self._flush()
        if self._sizes[-1]:
            self._sizes.append(0)

    def _flush(self) -> None:
        if not self._waiting:
            return
        file = self._directory / f"{self._name}-{len(self._sizes) - 1:05}.bin"
        with naming(file), file.open("ab") as shard:
            shard.write(np.array(self._waiting, dtype=self._dtype).tobytes())
        self._sizes[-1] += len(self._waiting)
        self._waiting = []
        if self._sizes[-1] >= TOKENS_PER_SHARD:
            self._sizes.append(0)

    def close(self) -> list[int]:
        self._flush()
        return [size for size in self._sizes if size]


def _fingerprint(corpus: Corpus, tokenizer: Tokenizer, validation_fraction: float | None, reading: Reading) -> str:
    """Changes with the files' names, sizes and dates, the vocabulary and what is held out."""
    sets = [[_stat(file) for file in files] for files in (*(texts.files for texts in corpus.sets), corpus.validation)]
    options = [corpus.weights, corpus.skip_bad, validation_fraction, tokenizer.eos_token_id, asdict(reading)]
    described = [FORMAT, sets, options, tokenizer.vocab, tokenizer.merges]
    described += [hashlib.sha256(contents).hexdigest() for _, contents in sorted(tokenizer.files.items())]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _stat(file: Path) -> tuple[str, int, int]:
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns


def _read_index(directory: Path) -> dict[str, object]:
    try:
        index = json.loads((directory / "index.json").read_text())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def map_shards(directory: Path) -> TokenShards:
    """Map what `tokenize` made; raises TrainingError naming the file that is missing or damaged."""
    file = directory / "index.json"
    with damage_named(file):
        index = json.loads(file.read_text())
        dtype = np.dtype(index["dtype"])
        train, validation = ([int(size) for size in index["shards"][name]] for name in ("train", "validation"))
        how = int(index["num_bytes"]), [int(size) for size in index["set_sizes"]], [float(weight) for weight in index["weights"]]
    return TokenShards(_mapped(directory, "train", dtype, train), _mapped(directory, "validation", dtype, validation), *how)


def _mapped(directory: Path, name: str, dtype: "np.dtype[Any]", sizes: Sequence[int]) -> list[Ids]:
    """One split's shards, of so many ids each."""
    found: list[Ids] = []
    for number, size in enumerate(sizes):
        file = directory / f"{name}-{number:05}.bin"
        with damage_named(file):
            found.append(np.memmap(file, dtype=dtype, mode="r", shape=(size,)))
    return found
