"""LoRA's matrices as a small adapter, in the files of the `peft` library: adapter_config.json and adapter_model.safetensors.

`peft` puts such a directory onto transformers' GPT2LMHeadModel, and what it saves for one is read here. The base is recorded by its
name and by a fingerprint of its weights, since an adapter on other weights computes nonsense without any error.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.chat_template import FILE as TEMPLATE_FILE
from model.checkpoint import CheckpointError, load_tokenizer, read_inherited, resolve_model
from model.files import all_or_none, replace_file
from model.gpt2 import GPT2
from model.input_files import CONFIG_BYTES, FileUnusable, cut, is_there, read_file, read_json, shown
from model.network_files import save_checkpoint
from model.training.errors import TrainingError
from model.training.lora import TARGETS, LoRA, add_lora, lora_layers, merge
from model.training.overwriting import check_no_checkpoint
from model.training.stored import load_stored

MAX_NUMBER = 1 << 20  # far beyond any rank
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# GPT2LMHeadModel's name of a block within peft's wrapper; peft's own layers are named as ours.
PREFIX = "base_model.model.transformer."
MATRIX = re.compile(re.escape(PREFIX) + r"h\.(\d+)\.(" + "|".join(map(re.escape, TARGETS)) + r")\.lora_[AB]\.weight")
# What peft can do besides, each by the field that asks for it.
UNKNOWN_KINDS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter's directory holds; `fingerprint` is None if another program than this one wrote it."""

    directory: Path
    lora: LoRA
    base: str | None
    fingerprint: str | None
    tensors: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)  # the chat template by which it was taught, if any

    def put_on(self, model: GPT2, name: str) -> GPT2:
        """Add the adapter to its base, which messages call `name`; raises TrainingError if it was made for another model."""
        other = f"{self.directory} is an adapter for another model than {name}"
        remedy = f"give its own base by --model{f', {self.base}' if self.base else ''}"
        base_fingerprint = fingerprint(model) if self.fingerprint else None
        wanted = _named_matrices(add_lora(model, self.lora))
        if wanted.keys() != self.tensors.keys():
            odd = min(wanted.keys() ^ self.tensors.keys()).removeprefix(PREFIX)
            raise TrainingError(f"{other}, or incomplete: {odd} is in one of them alone; {remedy}")
        for key, parameter in wanted.items():
            if parameter.shape != self.tensors[key].shape:
                shapes = f"{key.removeprefix(PREFIX)} is {list(self.tensors[key].shape)}, here {list(parameter.shape)}"
                raise TrainingError(f"{other}: {shapes}; {remedy}")
        if base_fingerprint != self.fingerprint:
            raise TrainingError(f"{other}: the sizes are the same, the weights are not; {remedy}")
        with torch.no_grad():
            for key, parameter in wanted.items():
                parameter.copy_(self.tensors[key])
        return model


def fingerprint(model: GPT2) -> str:
    """sha256 of the weights as float32; the same for a checkpoint and its copy, whatever their files are called."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {list(parameter.shape)} ".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_adapter(
    directory: Path, model: GPT2, lora: LoRA, base: str, base_fingerprint: str, further: Mapping[str, bytes] | None = None
) -> None:
    """Write the two files, and `further` ones that its tokenizer is to have: each whole or not at all."""
    tensors = {key: parameter.detach().cpu().contiguous() for key, parameter in _named_matrices(model).items()}
    metadata = {"format": "pt", "base_sha256": base_fingerprint}
    config, further = json.dumps(_config_fields(lora, base), indent=2) + "\n", further or {}
    with all_or_none(directory, (WEIGHTS, CONFIG, *further)):
        directory.mkdir(parents=True, exist_ok=True)
        for name, contents in further.items():
            replace_file(directory / name, partial(Path.write_bytes, data=contents))
        replace_file(directory / WEIGHTS, lambda file: save_file(tensors, file, metadata=metadata))
        replace_file(directory / CONFIG, lambda file: file.write_text(config, encoding="utf-8"))


def load_adapter(directory: Path) -> Adapter:
    """Read an adapter of this program or of `peft`; raises TrainingError naming what is missing or not understood."""
    fields = _read_config(directory)
    try:
        if not is_there(directory / WEIGHTS):
            raise TrainingError(f"{directory} has no {WEIGHTS}; copy it beside {CONFIG}")
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - it is no dict
        template = directory / TEMPLATE_FILE
        files = {TEMPLATE_FILE: read_file(template, CONFIG_BYTES)} if is_there(template) else {}
    except FileUnusable as error:
        raise TrainingError(str(error)) from error
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{directory / WEIGHTS} is damaged: {cut(str(error))}; copy it again") from error
    matches = {key: MATRIX.fullmatch(key) for key in tensors}
    if unknown := [key for key, match in matches.items() if match is None]:
        raise TrainingError(f"{directory / WEIGHTS} has {cut(unknown[0])}, which is no matrix of LoRA for GPT-2's projections")
    found = {match[2] for match in matches.values() if match is not None}
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or type(alpha) not in (int, float) or not (0 < rank <= MAX_NUMBER and 0 < alpha <= MAX_NUMBER):  # type: ignore[operator]
        raise TrainingError(
            f"{directory / CONFIG}: r is {shown(rank)} and lora_alpha {shown(alpha)}; they must be numbers from 0 to {MAX_NUMBER}"
        )
    lora = LoRA(rank, float(alpha), tuple(target for target in TARGETS if target in found))  # type: ignore[arg-type]
    base = fields.get("base_model_name_or_path")
    return Adapter(directory, lora, base if isinstance(base, str) else None, metadata.get("base_sha256"), tensors, files)


def merge_adapter(adapter_directory: Path, base: str | None, out: Path) -> None:
    """Write what an adapter makes of its base, in the type of that: the one called `base` or, if that is None, the one it names."""
    adapter = load_adapter(adapter_directory)
    check_no_checkpoint(out)
    name = base or adapter.base
    if name is None:
        raise TrainingError(f"{adapter_directory} does not say what its base is; name it by --model")
    try:
        directory = resolve_model(name)
        tokenizer, (model, dtype), inherited = load_tokenizer(directory), load_stored(directory), read_inherited(directory)
    except CheckpointError as error:
        raise TrainingError(f"{error}{'' if base else f'; it is the base of {adapter_directory}: name it by --model'}") from error
    tokenizer.files.update(adapter.files)
    save_checkpoint(out, merge(adapter.put_on(model, name)), tokenizer, dtype, inherited)


def is_adapter(directory: Path) -> bool:
    return (directory / WEIGHTS).exists()


def _named_matrices(model: GPT2) -> dict[str, Tensor]:
    """A (r, in) and B (out, r) of all layers, by peft's names."""
    layers = lora_layers(model).items()
    matrices: dict[str, Tensor] = {f"{PREFIX}{name}.lora_A.weight": layer.lora_A for name, layer in layers}
    return matrices | {f"{PREFIX}{name}.lora_B.weight": layer.lora_B for name, layer in layers}


def _config_fields(lora: LoRA, base: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "fan_in_fan_out": True,  # transformers' Conv1D holds its weight as (in, out)
        "bias": "none",
        "inference_mode": True,
    }


def _read_config(directory: Path) -> dict[str, object]:
    file = directory / CONFIG
    try:
        if not is_there(file):
            raise TrainingError(f"{directory} has no {CONFIG}; an adapter is a directory as gpt2 train finetune makes it")
        fields = read_json(file, CONFIG_BYTES)
    except FileUnusable as error:
        raise TrainingError(str(error)) from error
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        raise TrainingError(f"{file} does not describe a LoRA adapter: its peft_type is not LORA")
    if fields.get("bias", "none") != "none":
        raise TrainingError(f"{file}: bias is {shown(fields['bias'])}; only 'none' can be merged here")
    for name in UNKNOWN_KINDS:
        if fields.get(name):
            raise TrainingError(f"{file}: {name} is {shown(fields[name])}; plain LoRA alone can be merged here")
    return fields
