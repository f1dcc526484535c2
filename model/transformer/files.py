"""An encoder-decoder Transformer on disk: its sizes as config.json, its weights as model.safetensors. Knows no vocabulary."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.files import all_or_none, replace_file
from model.transformer.config import TransformerConfig
from model.transformer.network import Transformer
from model.weights import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KIND = "encoder-decoder-transformer"  # so that neither is taken for GPT-2's files


def save_transformer(directory: Path, model: Transformer) -> None:
    """Write both files or neither, each over an earlier one when it is whole. Raises an OSError that names the file."""
    config = json.dumps({"model_type": KIND} | asdict(model.config), indent=2) + "\n"
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with all_or_none(directory, (CONFIG, WEIGHTS)):
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / WEIGHTS, lambda file: save_file(weights, file))
        replace_file(directory / CONFIG, lambda file: file.write_text(config, encoding="utf-8"))


def load_transformer(directory: Path) -> Transformer:
    """The network in evaluation mode. Raises CheckpointError, which names the file, where it is none of `save_transformer`."""
    model = Transformer(_load_config(directory / CONFIG))
    file = directory / WEIGHTS
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    except RuntimeError as error:  # PyTorch's, a line for each weight that does not fit
        raise CheckpointError(f"{file} does not fit {CONFIG} beside it: {' '.join(str(error).split())}") from error
    return model.eval()


def _load_config(file: Path) -> TransformerConfig:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(fields, dict) or fields.pop("model_type", None) != KIND:
        raise CheckpointError(f"{file} is not of an encoder-decoder Transformer: its model_type is to be {KIND}")
    try:
        return TransformerConfig(**fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} does not fit: {error}") from error
