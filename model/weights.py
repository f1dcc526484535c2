"""The tensors of a checkpoint directory's safetensors files: found, checked by their headers, mapped into memory, never copied.

Knows files and names; not which tensors a network needs, nor torch. Weights are safetensors alone: nothing here ever unpickles.
"""

import json
import math
import mmap
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from model import input_files
from model.input_files import CONFIG_BYTES, FileUnusable, cut, is_there, shown

PREFIX = "transformer."
# The causal mask was saved with the weights of early releases.
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
Dtype = Literal["F32", "F16", "BF16"]
# As numpy holds them; bfloat16, which it lacks, as its 16 bits.
DTYPES: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# GPT-2 xl's header has 60 kB; the library would parse one of 100 MB.
MAX_HEADER_BYTES = 1 << 20


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message names the file, the tensor or field, and what to do."""


class Weight(NamedTuple):
    """A parameter as it lies in its file: C-contiguous float32, float16, or uint16 that holds bfloat16.

    With `is_transposed` a linear layer's weight is (in, out), as OpenAI's code multiplied and checkpoints hold it, in place of
    PyTorch's (out, in). The values are a mapping of the file, which may be written over or cut short: whoever keeps a weight beyond
    loading copies it.
    """

    values: NDArray[Any]
    dtype: Dtype
    is_transposed: bool

    def to_float32(self) -> NDArray[np.float32]:
        """The values as float32, as they lie; a view where they are."""
        if self.dtype == "BF16":
            return (self.values.astype(np.uint32) << 16).view(np.float32)
        return self.values.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a mapped safetensors file, `offset` bytes from the file's beginning."""

    file: Path
    key: str
    mapping: mmap.mmap
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def weight(self, is_transposed: bool) -> Weight:
        """The tensor itself; copied alone where it is float64, or does not lie at a multiple of its element's size."""
        values = np.frombuffer(self.mapping, DTYPES[self.dtype], math.prod(self.shape), self.offset).reshape(self.shape)
        if self.dtype == "F64":
            with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused as such
                return Weight(values.astype(np.float32), "F32", is_transposed)
        dtype: Dtype = next(known for known in get_args(Dtype) if known == self.dtype)
        return Weight(np.require(values, requirements="A"), dtype, is_transposed)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of all weight files but the masks, by the network's names."""
    stored: dict[str, StoredTensor] = {}
    for file in _weight_files(directory):
        for tensor in _tensors_of(file):
            name = tensor.key.removeprefix(PREFIX)
            if MASK.fullmatch(name):
                continue
            if name in stored:
                raise CheckpointError(
                    f"{file}: {cut(tensor.key)} is there twice, the other is {cut(stored[name].key)} in {stored[name].file.name}"
                )
            if tensor.dtype not in DTYPES:
                raise CheckpointError(f"{file}: {cut(tensor.key)} is of type {tensor.dtype}; weights are {', '.join(DTYPES)}")
            stored[name] = tensor
    return stored


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    try:
        if is_there(single):
            return [single]
        if is_there(index):
            return _shards(index)
    except FileUnusable as error:
        raise CheckpointError(str(error)) from error
    if any(directory.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{directory} holds its weights as a pickle, which can run any code and is never opened here; "
            f"if you trust it, convert it: {converting_command(str(directory), str(directory))}"
        )
    raise CheckpointError(f"{directory} has neither model.safetensors nor model.safetensors.index.json")


def converting_command(source: str, directory: str) -> str:
    """What makes safetensors of a pickle: for who trusts it, in an environment of theirs."""
    code = f"from transformers import GPT2LMHeadModel as M; M.from_pretrained({source!r}).save_pretrained({directory!r})"
    if source != directory:
        code += f"; from transformers import AutoTokenizer as T; T.from_pretrained({source!r}).save_pretrained({directory!r})"
    return f"python -c {shlex.quote(code)}"


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensors to files")
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name == "..":  # An index must not lead out of its directory.
            raise CheckpointError(f"{index} names the file {shown(name)}, which is not beside it")
        if not is_there(index.parent / name):
            raise CheckpointError(f"{index} names the file {shown(name)}, which is missing; download it again")
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def _tensors_of(file: Path) -> list[StoredTensor]:
    """What the header names. That it is true, each byte of the file in one tensor of so many elements, the library checks."""
    try:
        with file.open("rb") as raw:
            if int.from_bytes(raw.read(8), "little") > MAX_HEADER_BYTES:
                raise CheckpointError(
                    f"{file} is no safetensors file: its header is said to have more than {MAX_HEADER_BYTES} bytes"
                )
            checked = safe_open(file, framework="np")
            # Private: nobody writes, but torch takes over only what may be written to.
            mapping = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_COPY)
            if hasattr(mmap, "MADV_WILLNEED"):
                mapping.madvise(mmap.MADV_WILLNEED)  # a file that is not in memory is read from here on, beside everything else
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged: {_first_cut_tensor(file) or cut(str(error))}; download or copy it again"
        ) from error
    header, begin = _header(file, mapping)
    tensors = []
    for key in checked.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 - it is no dict
        entry = checked.get_slice(key)  # type: ignore[no-untyped-call]
        offset = begin + header[key]["data_offsets"][0]
        tensors.append(StoredTensor(file, key, mapping, offset, tuple(entry.get_shape()), entry.get_dtype()))
    return tensors


def _header(file: Path, contents: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header of a file that the library has checked, and where the tensors begin, in bytes."""

    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):  # which of the two the library has checked is its own affair
            raise CheckpointError(f"{file} is damaged: its header names something twice; download or copy it again")
        return fields

    begin = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:begin], object_pairs_hook=without_repetition), begin


def _first_cut_tensor(file: Path) -> str | None:
    """Of a file that was cut short, where: the library does not say."""
    try:
        with file.open("rb") as raw:
            header_size = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(header_size))
        available = file.stat().st_size - 8 - header_size
        ends = {key: entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"}
        behind = [key for key, end in ends.items() if end > available]
        return f"it ends within {cut(min(behind, key=ends.__getitem__))}" if behind else None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def read_json(file: Path, limit: int = CONFIG_BYTES) -> dict[str, object]:
    try:
        contents = input_files.read_json(file, limit)
    except FileUnusable as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{file} must hold one JSON object")
    return contents
