"""Hugging Face GPT-2 directories, read and written: config.json, safetensors and the vocabulary's files.

Knows the network's names and what GPT-2 lacks; not torch, nor how tensors lie in a file. What cannot be served is refused with a
CheckpointError that names it.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model.bpe import BPETokenizer
from model.config import GPT2Config
from model.config_file import config_fields, number, read_config, size
from model.files import all_or_none, replace_file
from model.hub import HubError, download
from model.input_files import CONFIG_BYTES, FileUnusable, cut, is_there, read_file, shown
from model.tokenizer import END_OF_TEXT, Tokenizer, TokenizerError
from model.tokenizer_files import FILES, read_tokenizer
from model.weights import CheckpointError, StoredTensor, Weight, read_json, stored_tensors

__all__ = [
    "TRANSPOSED",
    "Checkpoint",
    "CheckpointError",
    "Inherited",
    "load_config",
    "load_tokenizer",
    "open_checkpoint",
    "read_inherited",
    "resolve_model",
    "save_config",
    "save_tokenizer",
]

# OpenAI's code multiplied x W, so that checkpoints hold these (in, out); PyTorch's layers hold (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Of GPT2DoubleHeadsModel and those that classify, answer questions or value a text, behind or beside the network that writes.
OTHER_HEADS = re.compile(r"(multiple_choice_head|score|classifier|qa_outputs|v_head)\.")


def resolve_model(name: str, fetch: Callable[[str], Path] = download) -> Path:
    """The directory of a checkpoint: an existing one, or what the hub has under `gpt2` or `owner/name`, downloaded or cached."""
    directory = Path(name)
    if name and directory.is_dir():  # Path("") is the current directory.
        return directory
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise CheckpointError(f"no such directory: {shown(name)}")
    try:
        return fetch(name)
    except HubError as error:
        raise CheckpointError(str(error)) from error


def load_config(directory: Path) -> GPT2Config:
    """Read `config.json`. Dropout rates are ignored: they act in training alone, where they are an option of the trainer."""
    fields = read_config(directory)
    try:
        return GPT2Config(
            vocab_size=size(directory, fields, "vocab_size"),
            n_positions=size(directory, fields, "n_positions"),
            n_embd=size(directory, fields, "n_embd"),
            n_layer=size(directory, fields, "n_layer"),
            n_head=size(directory, fields, "n_head"),
            n_inner=None if fields.get("n_inner") is None else size(directory, fields, "n_inner"),
            layer_norm_epsilon=number(directory, fields, "layer_norm_epsilon", 1e-5),
            initializer_range=number(directory, fields, "initializer_range", 0.02),
            eos_token_ids=_end_ids(directory, fields),
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from error


def _end_ids(directory: Path, fields: dict[str, object]) -> tuple[int, ...]:
    """All that end a text; where no file names one, the tokenizer's."""
    vocab_size = size(directory, fields, "vocab_size")
    if known := tuple(i for i in _named_end_ids(directory, fields) if 0 <= i < vocab_size):
        return known
    if (end := load_tokenizer(directory).eos_token_id) is None:
        raise CheckpointError(f"{directory} has no end token; set eos_token_id in config.json or add {END_OF_TEXT} to vocab.json")
    return (end,)


def _named_end_ids(directory: Path, fields: dict[str, object]) -> tuple[int, ...]:
    """Those of `config.json`, then of `generation_config.json`; the model may lack some."""
    named = [fields.get("eos_token_id"), _optional(directory / "generation_config.json").get("eos_token_id")]
    ids = [token_id for value in named for token_id in (value if isinstance(value, list) else [value])]
    if any(isinstance(value, list) and not all(type(i) is int for i in value) for value in named):
        raise CheckpointError(f"{directory}: eos_token_id is {shown(named)}; it must be a token id or a list of them")
    return tuple(dict.fromkeys(i for i in ids if type(i) is int))


def _optional(file: Path) -> dict[str, object]:
    try:
        return read_json(file) if is_there(file) else {}
    except FileUnusable as error:
        raise CheckpointError(str(error)) from error


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's directory; the model may have more ids than it has tokens.

    Texts end with what the configuration names, if anything: the model learned that, whatever the vocabulary's files call it.
    """
    fields = read_config(directory)
    try:
        tokenizer = read_tokenizer(directory)
    except TokenizerError as error:
        raise CheckpointError(f"the vocabulary in {directory} cannot be read: {error}") from error
    vocab_size = size(directory, fields, "vocab_size")
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{directory}: the vocabulary has ids up to {tokenizer.vocab_size - 1}, but vocab_size in config.json is "
            f"{vocab_size}; these are not the vocabulary's files that the model was trained with"
        )
    named = (i for i in _named_end_ids(directory, fields) if 0 <= i < vocab_size)
    tokenizer.eos_token_id = next(named, tokenizer.eos_token_id)
    return tokenizer


# Of `config.json`: how other weights were stored, and code of a directory's own.
NOT_INHERITED = ("torch_dtype", "quantization_config", "auto_map")
INHERITED_FILES = ("generation_config.json", "additional_chat_templates/*.jinja")


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a checkpoint's directory says beside its weights and vocabulary, to whichever program: models made of it say it too."""

    config: dict[str, object] = field(default_factory=dict)  # all fields of config.json, those that nobody here reads too
    files: dict[str, bytes] = field(default_factory=dict)


def read_inherited(directory: Path) -> Inherited:
    """Of a checkpoint that has been opened. End tokens that the model lacks are not handed on."""
    fields = {name: value for name, value in read_json(directory / "config.json").items() if name not in NOT_INHERITED}
    ids, vocab_size = fields.get("eos_token_id"), size(directory, read_config(directory), "vocab_size")
    if not all(type(i) is int and 0 <= i < vocab_size for i in (ids if isinstance(ids, list) and ids else [ids])):
        fields.pop("eos_token_id", None)
    files = sorted(file for pattern in INHERITED_FILES for file in directory.glob(pattern))
    try:
        return Inherited(fields, {str(file.relative_to(directory)): read_file(file, CONFIG_BYTES) for file in files})
    except FileUnusable as error:
        raise CheckpointError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's sizes, and its weights by the network's names, mapped from the files: for as long as they are being loaded."""

    config: GPT2Config
    weights: dict[str, Weight]
    origins: dict[str, str]  # for messages: each weight's file and the name that it has there
    left_aside: tuple[str, ...] = ()  # weights of heads that write no text
    unknown_end_ids: tuple[int, ...] = ()  # that are named, but the model lacks

    def not_finite(self, name: str) -> CheckpointError:
        """The refusal of a weight in which a reader met something that is no number."""
        return CheckpointError(f"{self.origins[name]} has values that are NaN or infinite; take another copy or training step")

    def overflows(self) -> CheckpointError:
        """The refusal of weights with which a prompt comes to no numbers: the tensor with the largest is to blame."""
        largest = {name: float(np.abs(weight.to_float32()).max()) for name, weight in self.weights.items()}
        name = max(largest, key=largest.__getitem__)
        return CheckpointError(
            f"{self.origins[name]} has values up to {largest[name]:.3g}, with which the network computes no numbers; "
            "take another copy or training step"
        )


def open_checkpoint(directory: Path) -> Checkpoint:
    """Check names, shapes and types by the files' headers, and map the weights; of their values nothing is read."""
    config = load_config(directory)
    stored = stored_tensors(directory)
    left_aside = tuple(sorted(name for name in stored if OTHER_HEADS.match(name)))
    stored = {name: tensor for name, tensor in stored.items() if name not in left_aside}
    head = stored.pop("lm_head.weight", None)
    if head is not None:
        stored.setdefault("wte.weight", head)  # of two that are one, some files have this one
    _check_layout(directory, stored, config.parameter_shapes)
    weights = {name: tensor.weight(name.endswith(TRANSPOSED)) for name, tensor in stored.items()}
    if head is not None and not _equal(head.weight(is_transposed=False), weights["wte.weight"]):
        raise CheckpointError(f"{head.file}: lm_head.weight differs from wte.weight; GPT-2's output head is its input embedding")
    origins = {name: f"{tensor.file}: {tensor.key}" for name, tensor in stored.items()}
    unknown = tuple(i for i in _named_end_ids(directory, read_config(directory)) if i not in config.eos_token_ids)
    return Checkpoint(config, weights, origins, left_aside, unknown)


ROWS_AT_ONCE = 256  # of two matrices that are compared: what is made of them stays in the cache


def _equal(one: Weight, other: Weight) -> bool:
    """Whether two weights have the same shape and values; NaN, which is refused elsewhere, equals itself."""
    if one.values.shape != other.values.shape:
        return False
    starts = range(0, len(one.values), ROWS_AT_ONCE)
    parts = [[Weight(w.values[i : i + ROWS_AT_ONCE], w.dtype, False) for w in (one, other)] for i in starts]
    return all(np.array_equal(a.to_float32(), b.to_float32(), equal_nan=True) for a, b in parts)


def save_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write the files that the tokenizer was read from or, of one just learned, `vocab.json` and `merges.txt`."""
    files = tokenizer.files or _vocabulary_files(tokenizer)
    with all_or_none(directory, files):
        for name, contents in files.items():
            _write(directory / name, contents)
    for name in set(FILES) - set(files):  # An older vocabulary would be taken from there, not from the files just written.
        (directory / name).unlink(missing_ok=True)


def _vocabulary_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    assert isinstance(tokenizer, BPETokenizer), "only such a one is made from no files"
    merges = "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, tokenizer.merges)])
    return {"vocab.json": json.dumps(tokenizer.vocab, ensure_ascii=False).encode(), "merges.txt": merges.encode()}


def save_config(directory: Path, config: GPT2Config, dtype: str, inherited: Inherited | None = None) -> None:
    """Write `config.json` for weights of a type, as in "bfloat16"; with what a checkpoint hands on, its other files too."""
    inherited, own = inherited or Inherited(), config_fields(config, dtype)
    fields = own | inherited.config | {name: own[name] for name in ("architectures", "model_type", "dtype")}
    _write(directory / "config.json", (json.dumps(fields, indent=2) + "\n").encode())
    for name, contents in inherited.files.items():
        _write(directory / name, contents)


def _write(file: Path, contents: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda temporary: temporary.write_bytes(contents))


def _check_layout(directory: Path, stored: dict[str, StoredTensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are missing, unexpected or of another shape than the config's."""
    if missing := shapes.keys() - stored.keys():
        raise CheckpointError(f"{directory} lacks {_names(missing)}; config.json describes another model, or a file is incomplete")
    if unexpected := stored.keys() - shapes.keys():
        files = ", ".join(sorted({stored[name].file.name for name in unexpected}))
        raise CheckpointError(f"{directory / files} has {_names(unexpected)}, which GPT-2 as described by config.json lacks")
    for name, tensor in stored.items():
        wanted = shapes[name][::-1] if name.endswith(TRANSPOSED) else shapes[name]
        if tensor.shape != wanted:
            raise CheckpointError(f"{tensor.file}: {cut(tensor.key)} is {list(tensor.shape)}; config.json asks for {list(wanted)}")


def _names(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(cut, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
