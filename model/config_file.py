"""A checkpoint's `config.json`: the sizes of a GPT-2 under the names that it has there, and what makes another network of it.

Knows the file alone; not the weights beside it, nor the tokenizer.
"""

import shlex
from pathlib import Path

from model.config import GPT2Config
from model.input_files import FileUnusable, is_there, shown
from model.weights import CheckpointError, read_json

# Far beyond any GPT-2: a config that lies must not keep us busy.
MAX_SIZES = {
    "vocab_size": 1 << 24,
    "n_positions": 1 << 20,
    "n_embd": 1 << 16,
    "n_layer": 512,
    "n_head": 1 << 16,
    "n_inner": 1 << 20,
}
MAX_NUMBER = 1e6  # far beyond any epsilon, and a float in any precision
# What makes another network out of the same weights, and the values with which it stays GPT-2; the first is the default.
GPT2_ONLY: dict[str, tuple[object, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"),  # one function under four names
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False, True),  # the order in which float16 is scaled; here it is float32
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
# By which `transformers` takes the same sizes too, and where the length of the context was first written.
OTHER_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "n_ctx": "n_positions",
}


def read_config(directory: Path) -> dict[str, object]:
    """The fields of a `config.json` that describes a GPT-2 and nothing that GPT-2 lacks."""
    file = directory / "config.json"
    if not directory.is_dir():
        raise CheckpointError(f"no such directory: {directory}")
    try:
        if not is_there(file):
            raise _no_config(directory)
    except FileUnusable as error:
        raise CheckpointError(str(error)) from error
    fields = read_json(file)
    if not _is_gpt2(fields):
        raise CheckpointError(f"{file}: model_type is {shown(fields.get('model_type'))}; only 'gpt2' can be served")
    for name, served in GPT2_ONLY.items():
        if (value := fields.get(name, served[0])) not in served:
            raise CheckpointError(f"{file}: {name} is {shown(value)}; GPT-2 has {' or '.join(map(repr, served))} alone")
    return _with_own_names(file, fields)


def _no_config(directory: Path) -> CheckpointError:
    """An adapter's directory, which has none either, is a step away from a checkpoint's."""
    if is_there(directory / "adapter_config.json"):
        command = f"gpt2 train merge --adapter {shlex.quote(str(directory))} --out CHECKPOINT"
        return CheckpointError(f"{directory} holds an adapter, which is a part of a model; put it into its base by {command}")
    return CheckpointError(f"{directory} has no config.json; a checkpoint is a Hugging Face GPT-2 directory")


def _is_gpt2(fields: dict[str, object]) -> bool:
    """By its type or, in files that have none, by its class or by the names of its sizes."""
    if (kind := fields.get("model_type")) is not None:
        return kind == "gpt2"
    if isinstance(classes := fields.get("architectures"), list) and classes:
        return all(str(name).startswith("GPT2") for name in classes)
    return {"n_embd", "n_layer", "n_head"} <= fields.keys()


def _with_own_names(file: Path, fields: dict[str, object]) -> dict[str, object]:
    """The sizes under GPT-2's names alone."""
    named = dict(fields)
    for other, name in OTHER_NAMES.items():
        if other not in fields:
            continue
        if named.setdefault(name, fields[other]) != fields[other] and other != "n_ctx":  # which `transformers` never reads
            raise CheckpointError(f"{file}: {name} is {shown(named[name])}, but {other}, its other name, is {shown(fields[other])}")
    return named


def size(directory: Path, fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 1 <= value <= MAX_SIZES[name]:
        raise CheckpointError(
            f"{directory / 'config.json'}: {name} is {shown(value)}; it must be a number from 1 to {MAX_SIZES[name]}"
        )
    return value


def number(directory: Path, fields: dict[str, object], name: str, default: float) -> float:
    value = fields.get(name, default)
    if type(value) not in (int, float) or not 0 < value < MAX_NUMBER:  # type: ignore[operator]
        raise CheckpointError(f"{directory / 'config.json'}: {name} is {shown(value)}; it must be above 0 and below {MAX_NUMBER:g}")
    return float(value)  # type: ignore[arg-type]


def config_fields(config: GPT2Config, dtype: str) -> dict[str, object]:
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
        "eos_token_id": config.eos_token_id if len(config.eos_token_ids) == 1 else list(config.eos_token_ids),
        "dtype": dtype,
    }
