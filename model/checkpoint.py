"""Hugging Face GPT-2 directories, read and written: config.json, safetensors and the vocabulary's files.

Knows the network's names and what GPT-2 lacks; not devices, nor how tensors lie in a file. What cannot be served is refused with a
CheckpointError that names it.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

from model.config import GPT2Config
from model.files import replace_file
from model.gpt2 import GPT2
from model.hub import HubError, download
from model.tokenizer import END_OF_TEXT, Tokenizer, TokenizerError
from model.weights import PREFIX, CheckpointError, StoredTensor, read_json, stored_tensors

__all__ = ["CheckpointError", "load_config", "load_model", "load_tokenizer", "resolve_model", "save_checkpoint", "save_tokenizer"]

# OpenAI's code multiplied x W, so that checkpoints hold these (in, out); PyTorch's layers hold (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# Far beyond any GPT-2: a config that lies must not keep us busy building the network.
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


def load_model(directory: Path, on_progress: Callable[[int, int], None] | None = None) -> GPT2:
    """The network with its weights in float32 on the CPU; `on_progress(done, total)` counts the bytes read."""
    config = load_config(directory)
    with torch.device("meta"), _NothingDrawn():  # no memory and no random numbers for weights that are about to be replaced
        model = GPT2(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    stored = stored_tensors(directory)
    head = stored.pop("lm_head.weight", None)
    _check_layout(directory, stored, shapes)
    weights, done, total = {}, 0, sum(tensor.num_bytes for tensor in stored.values())
    for name, tensor in stored.items():
        weights[name] = tensor.read(transposed=name.endswith(TRANSPOSED))
        done += tensor.num_bytes
        if on_progress is not None:
            on_progress(done, total)
    if head is not None and not torch.equal(head.read(transposed=False), weights["wte.weight"]):
        raise CheckpointError(f"{head.file}: lm_head.weight differs from wte.weight; GPT-2's output head is its input embedding")
    model.load_state_dict({**weights, "lm_head.weight": weights["wte.weight"]}, assign=True)
    model.lm_head.weight = model.wte.weight  # Assigning has parted the two.
    return model


class _NothingDrawn(TorchFunctionMode):
    """Leaves out torch.nn.init: on the meta device alone it draws nothing either, but imports torch's compiler for that, 0.7 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's own signature
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def save_checkpoint(directory: Path, model: GPT2, tokenizer: Tokenizer, dtype: torch.dtype) -> None:
    """Write the four files, each whole or not at all, over those of an older checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().to("cpu", dtype)
        tensors[PREFIX + name] = (weight.t() if name.endswith(TRANSPOSED) else weight).contiguous()
    replace_file(directory / "model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
    _write_text(directory / "config.json", json.dumps(_config_fields(model.config, dtype), indent=2) + "\n")
    save_tokenizer(directory, tokenizer)


def save_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write `vocab.json` and `merges.txt`, which tiktoken's users, `transformers` and this service read alike."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_text(directory / "vocab.json", json.dumps(tokenizer.vocab, ensure_ascii=False))
    _write_text(directory / "merges.txt", "".join(f"{line}\n" for line in ["#version: 0.2", *map(" ".join, tokenizer.merges)]))
    # Transformers would take an older vocabulary from here and not from the files just written.
    (directory / "tokenizer.json").unlink(missing_ok=True)


def _write_text(file: Path, text: str) -> None:
    contents = text.encode("utf-8")
    replace_file(file, lambda temporary: temporary.write_bytes(contents))


def _config_fields(config: GPT2Config, dtype: torch.dtype) -> dict[str, object]:
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
        "dtype": str(dtype).removeprefix("torch."),
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
