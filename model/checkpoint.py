"""Hugging Face GPT-2 directories, read and written: config.json, safetensors and the vocabulary's files.

Knows the network's names and what GPT-2 lacks; not torch, nor how tensors lie in a file. What cannot be served is refused with a
CheckpointError that names it.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.config import GPT2Config
from model.files import replace_file
from model.hub import HubError, download
from model.tokenizer import END_OF_TEXT, Tokenizer, TokenizerError
from model.weights import CheckpointError, StoredTensor, Weight, read_json, stored_tensors

__all__ = [
    "TRANSPOSED",
    "Checkpoint",
    "CheckpointError",
    "load_config",
    "load_tokenizer",
    "open_checkpoint",
    "resolve_model",
    "save_config",
    "save_tokenizer",
]

# OpenAI's code multiplied x W, so that checkpoints hold these (in, out); PyTorch's layers hold (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Far beyond any GPT-2: a config that lies must not keep us busy.
MAX_SIZES = {
    "vocab_size": 1 << 24,
    "n_positions": 1 << 20,
    "n_embd": 1 << 16,
    "n_layer": 512,
    "n_head": 1 << 16,
    "n_inner": 1 << 20,
}
# What makes another network out of the same weights, and the values with which it stays GPT-2; the first is the default.
GPT2_ONLY: dict[str, tuple[object, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def resolve_model(name: str) -> Path:
    """The directory of a checkpoint: an existing one, or what the hub has under `gpt2` or `owner/name`, downloaded or cached."""
    directory = Path(name)
    if name and directory.is_dir():  # Path("") is the current directory.
        return directory
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise CheckpointError(f"no such directory: {name!r}")
    try:
        return download(name)
    except HubError as error:
        raise CheckpointError(str(error)) from error


def load_config(directory: Path) -> GPT2Config:
    """Read `config.json`. Dropout rates are ignored: they act in training alone, where they are an option of the trainer."""
    fields = _read_config(directory)
    vocab_size = _size(directory, fields, "vocab_size")
    eos_token_id = fields.get("eos_token_id")
    if type(eos_token_id) is not int or not 0 <= eos_token_id < vocab_size:
        eos_token_id = load_tokenizer(directory).eos_token_id
    if eos_token_id is None:
        raise CheckpointError(f"{directory} has no end token; set eos_token_id in config.json or add {END_OF_TEXT} to vocab.json")
    try:
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=_size(directory, fields, "n_positions"),
            n_embd=_size(directory, fields, "n_embd"),
            n_layer=_size(directory, fields, "n_layer"),
            n_head=_size(directory, fields, "n_head"),
            n_inner=None if fields.get("n_inner") is None else _size(directory, fields, "n_inner"),
            layer_norm_epsilon=_number(directory, fields, "layer_norm_epsilon", 1e-5),
            initializer_range=_number(directory, fields, "initializer_range", 0.02),
            eos_token_id=eos_token_id,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from error


def load_tokenizer(directory: Path) -> Tokenizer:
    """Read `vocab.json` and `merges.txt` or, where they are missing, `tokenizer.json`; the model may have more ids than tokens."""
    fields = _read_config(directory)
    vocab, merges, both = (directory / name for name in ("vocab.json", "merges.txt", "tokenizer.json"))
    try:
        if vocab.exists() and merges.exists():
            tokenizer = Tokenizer.from_files(vocab, merges)
        elif both.exists():
            tokenizer = Tokenizer.from_tokenizer_json(both)
        else:
            raise CheckpointError(
                f"{directory} has neither vocab.json with merges.txt nor tokenizer.json; add them from the source"
            )
    except (TokenizerError, OSError) as error:
        raise CheckpointError(f"the vocabulary in {directory} cannot be read: {error}") from error
    if tokenizer.vocab_size > _size(directory, fields, "vocab_size"):
        raise CheckpointError(
            f"{directory}: the vocabulary has ids up to {tokenizer.vocab_size - 1}, but vocab_size in config.json is "
            f"{fields['vocab_size']}; these are not the vocabulary's files that the model was trained with"
        )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's sizes, and its weights by the network's names, mapped from the files: for as long as they are being loaded."""

    config: GPT2Config
    weights: dict[str, Weight]
    origins: dict[str, str]  # for messages: each weight's file and the name that it has there

    def not_finite(self, name: str) -> CheckpointError:
        """The refusal of a weight in which a reader met something that is no number."""
        return CheckpointError(f"{self.origins[name]} has values that are NaN or infinite; take another copy or training step")


def open_checkpoint(directory: Path) -> Checkpoint:
    """Check names, shapes and types by the files' headers, and map the weights; of their values nothing is read."""
    config = load_config(directory)
    stored = stored_tensors(directory)
    head = stored.pop("lm_head.weight", None)
    _check_layout(directory, stored, config.parameter_shapes)
    weights = {name: tensor.weight(name.endswith(TRANSPOSED)) for name, tensor in stored.items()}
    if head is not None and not _equal(head.weight(is_transposed=False), weights["wte.weight"]):
        raise CheckpointError(f"{head.file}: lm_head.weight differs from wte.weight; GPT-2's output head is its input embedding")
    return Checkpoint(config, weights, {name: f"{tensor.file}: {tensor.key}" for name, tensor in stored.items()})


ROWS_AT_ONCE = 256  # of two matrices that are compared: what is made of them stays in the cache


def _equal(one: Weight, other: Weight) -> bool:
    """Whether two weights have the same shape and values; NaN, which is refused elsewhere, equals itself."""
    if one.values.shape != other.values.shape:
        return False
    starts = range(0, len(one.values), ROWS_AT_ONCE)
    parts = [[Weight(w.values[i : i + ROWS_AT_ONCE], w.dtype, False) for w in (one, other)] for i in starts]
    return all(np.array_equal(a.to_float32(), b.to_float32(), equal_nan=True) for a, b in parts)


def save_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write `vocab.json` and `merges.txt`, which tiktoken's users, `transformers` and this service read alike."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_text(directory / "vocab.json", json.dumps(tokenizer.vocab, ensure_ascii=False))
    _write_text(directory / "merges.txt", "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, tokenizer.merges)]))
    # Transformers would take an older vocabulary from here and not from the files just written.
    (directory / "tokenizer.json").unlink(missing_ok=True)


def save_config(directory: Path, config: GPT2Config, dtype: str) -> None:
    """Write `config.json` for weights of a type, as in "bfloat16"."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_text(directory / "config.json", json.dumps(_config_fields(config, dtype), indent=2) + "\n")


def _write_text(file: Path, text: str) -> None:
    contents = text.encode("utf-8")
    replace_file(file, lambda temporary: temporary.write_bytes(contents))


def _config_fields(config: GPT2Config, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: values[0] for name, values in GPT2_ONLY.items()},
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.n_inner,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.eos_token_id,
        "eos_token_id": config.eos_token_id,
        "dtype": dtype,
    }


def _read_config(directory: Path) -> dict[str, object]:
    """The fields of a `config.json` that describes a GPT-2 and nothing that GPT-2 lacks."""
    file = directory / "config.json"
    if not directory.is_dir():
        raise CheckpointError(f"no such directory: {directory}")
    if not file.exists():
        raise CheckpointError(f"{directory} has no config.json; a checkpoint is a Hugging Face GPT-2 directory")
    fields = read_json(file)
    if fields.get("model_type") != "gpt2":
        raise CheckpointError(f"{file}: model_type is {fields.get('model_type')!r}; only 'gpt2' can be served")
    for name, served in GPT2_ONLY.items():
        if (value := fields.get(name, served[0])) not in served:
            raise CheckpointError(f"{file}: {name} is {value!r}; GPT-2 has {' or '.join(map(repr, served))} alone")
    return fields


def _size(directory: Path, fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 1 <= value <= MAX_SIZES[name]:
        raise CheckpointError(f"{directory / 'config.json'}: {name} is {value!r}; it must be a number from 1 to {MAX_SIZES[name]}")
    return value


def _number(directory: Path, fields: dict[str, object], name: str, default: float) -> float:
    value = fields.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise CheckpointError(f"{directory / 'config.json'}: {name} is {value!r}; it must be a number above 0")
    return value  # type: ignore[return-value]


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
            raise CheckpointError(f"{tensor.file}: {tensor.key} is {list(tensor.shape)}; config.json asks for {list(wanted)}")


def _names(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
