"""The tensors of a checkpoint directory's safetensors files, found and checked by their headers, then read one by one.

Knows files and names; not which tensors a network needs. Weights are safetensors alone: nothing here ever unpickles.
"""

import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PREFIX = "transformer."
# The causal mask was saved with the weights of early releases.
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes each
# GPT-2 xl's header has 60 kB; the library would parse one of 100 MB.
MAX_HEADER_BYTES = 1 << 20


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names the file, the tensor or field, and what to do."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in an open safetensors file; its bytes are read by `read` alone."""

    file: Path
    key: str
    handle: safe_open
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype]

    def read(self, transposed: bool) -> Tensor:
        """A float32 copy: the mapped file itself may be replaced, or cut short, while the service runs."""
        source = self.handle.get_tensor(self.key)  # type: ignore[no-untyped-call]
        source = source.t() if transposed else source
        weight = torch.empty(source.shape, dtype=torch.float32).copy_(source)
        # The sum is finite only if all are, and quicker; a sum that overflows is looked at again.
        if not weight.sum().isfinite() and not weight.isfinite().all():
            raise CheckpointError(
                f"{self.file}: {self.key} has values that are NaN or infinite; take another copy or training step"
            )
        return weight


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of all weight files but the masks, by the network's names."""
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(directory):
        handle = _open(file)
        for key in handle.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 - it is no dict
            name = key.removeprefix(PREFIX)
            if MASK.fullmatch(name):
                continue
            if name in stored:
                raise CheckpointError(f"{file}: {key} is there twice, the other is {stored[name].key} in {stored[name].file.name}")
            tensor = handle.get_slice(key)  # type: ignore[no-untyped-call]
            stored[name] = StoredTensor(file, key, handle, tuple(tensor.get_shape()), tensor.get_dtype())
            if stored[name].dtype not in DTYPES:
                raise CheckpointError(f"{file}: {key} is of type {stored[name].dtype}; weights are {', '.join(DTYPES)}")
    return stored


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if index.exists():
        return _shards(index)
    if any(directory.glob("pytorch_model*.bin")):
        code = f"from transformers import GPT2LMHeadModel as M; d = {str(directory)!r}; M.from_pretrained(d).save_pretrained(d)"
        raise CheckpointError(
            f"{directory} holds its weights as a pickle, which can run any code and is never opened here; "
            f"if you trust it, convert it: python -c {shlex.quote(code)}"
        )
    raise CheckpointError(f"{directory} has neither model.safetensors nor model.safetensors.index.json")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensors to files")
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:  # An index must not lead out of its directory.
            raise CheckpointError(f"{index} names the file {name!r}, which is not beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names the file {name}, which is missing; download it again")
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def _open(file: Path) -> safe_open:
    """Open a safetensors file; the library checks that its header is true, so that nothing is allocated on its word."""
    try:
        with file.open("rb") as raw:
            if int.from_bytes(raw.read(8), "little") > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{file} is no safetensors file: its header is said to have more than {MAX_HEADER_BYTES} bytes"
                )
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {_first_cut_tensor(file) or error}; download or copy it again") from error


def _first_cut_tensor(file: Path) -> str | None:
    """Of a file that was cut short, where: the library does not say."""
    try:
        with file.open("rb") as raw:
            header_size = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(header_size))
        available = file.stat().st_size - 8 - header_size
        ends = {key: entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"}
        cut = [key for key, end in ends.items() if end > available]
        return f"it ends within {min(cut, key=ends.__getitem__)}" if cut else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def read_json(file: Path) -> dict[str, object]:
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{file} must hold one JSON object")
    return contents
