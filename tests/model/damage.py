"""How a checkpoint directory is changed, for the tests of what is read and of what is refused."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

C_FC = "transformer.h.1.mlp.c_fc.weight"


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def rewrite(directory: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors")


def change_config(directory: Path, **fields: object) -> None:
    """Set fields of config.json; those set to ... are removed."""
    file = directory / "config.json"
    merged = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in merged.items() if value is not ...}))
