"""The checkpoint that is trained on: its network, its tokenizer, and how it is found again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Inherited, load_tokenizer, read_inherited, resolve_model
from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.tokenizer import Tokenizer
from model.training.adapter import fingerprint
from model.training.lora import LoRA, add_lora, build_network, merge
from model.training.recipe import Recipe
from model.training.stored import load_stored


@dataclass(frozen=True, slots=True)
class Base:
    """The checkpoint that is trained on; its weights are handed to the network, which changes them."""

    name: str
    config: GPT2Config
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    inherited: Inherited
    fingerprint: str
    dtype: torch.dtype  # of the weights in its files

    @classmethod
    def load(cls, name: str) -> "Base":
        directory = resolve_model(name)
        tokenizer, (model, dtype) = load_tokenizer(directory), load_stored(directory)
        # A folder is found again from anywhere; a name on the hub is one everywhere.
        name = str(directory.resolve()) if Path(name).is_dir() else name
        return cls(name, model.config, model.state_dict(), tokenizer, read_inherited(directory), fingerprint(model), dtype)

    def network(self, lora: LoRA | None, recipe: Recipe, device: torch.device) -> GPT2:
        """What is trained: the base, with LoRA if wanted."""
        model = build_network(self.config, self.weights, recipe.dropout)
        if lora is not None:
            add_lora(model, lora, torch.Generator().manual_seed(recipe.seed))
        return model.to(device)

    def save(self, directory: Path, model: GPT2) -> None:
        """Write what `network` has become, LoRA put into it, in the base's type, with all that its directory says of itself."""
        save_checkpoint(directory, merge(model), self.tokenizer, self.dtype, self.inherited)
