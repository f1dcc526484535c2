"""What must not be written over: checkpoints, adapters and tokenizers that somebody else has made."""

from collections.abc import Collection, Mapping
from pathlib import Path

from model.tokenizer_files import FILES as VOCABULARY_FILES
from model.training.errors import TrainingError
from model.training.run_lock import check_name, check_not_trained_in

# What says that a directory holds something already, of whichever program: writing over a part of it would lose the rest.
KINDS = {
    "adapter_model.safetensors": "an adapter",
    "adapter_config.json": "an adapter",
    "model.safetensors": "a checkpoint",
    "model.safetensors.index.json": "a checkpoint",
    "pytorch_model.bin": "a checkpoint",
    "pytorch_model.bin.index.json": "a checkpoint",
    "config.json": "a checkpoint",
    "tokenizer.json": "a vocabulary",
}
# What is no part of these, but whoever reads a checkpoint takes for a part of it.
TAKEN_IN = ("generation_config.json", "additional_chat_templates")


def check_no_checkpoint(out: Path) -> None:
    """Refuse to write over a checkpoint, an adapter or a tokenizer, or into a run."""
    check_no_kind(out)
    check_no_tokenizer(out, {})
    check_not_trained_in(out)


def check_no_tokenizer(out: Path, files: Mapping[str, bytes], debris: Collection[str] = ()) -> None:
    """Refuse to write a tokenizer of these files where those of another one would be written over or taken away."""
    for name in VOCABULARY_FILES:
        if name not in debris and (out / name).exists() and (out / name).read_bytes() != files.get(name):
            raise TrainingError(f"{out / name} exists already and would be overwritten; choose another --out")


def check_no_kind(out: Path) -> None:
    """Refuse a directory that holds an adapter, a checkpoint or a vocabulary, or what would become a part of one."""
    check_name(out)
    if kind := next((kind for name, kind in KINDS.items() if (out / name).exists()), None):
        raise TrainingError(f"{out} holds {kind} already, which would be overwritten; choose another --out")
    if file := next((out / name for name in TAKEN_IN if (out / name).exists()), None):
        raise TrainingError(f"{file} would become a part of a model that it was not made for; choose another --out")
