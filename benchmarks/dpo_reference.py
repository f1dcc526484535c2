"""The loss of direct preference optimisation and its gradient as `trl` computes them, for tests/model/training/test_dpo_loss.py.

    python -m venv trl && trl/bin/pip install . "trl==1.16.0"
    trl/bin/python -m benchmarks.dpo_reference

In an environment of its own: trl brings what a service has no use for. The networks and the pairs are those of
tests/model/training/dpo_case.py.
"""

import json
import tempfile
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from benchmarks.machine import ROOT
from model.checkpoint import TRANSPOSED
from model.gpt2 import GPT2
from tests.model.training.dpo_case import BETA, CONFIG, network, rows

FILE = ROOT / "tests" / "data" / "dpo_trl.json"
WATCHED = ("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias", "ln_f.weight")


def main() -> None:
    policy, reference = (_as_transformers(network(phase)) for phase in (0.0, 0.1))
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            folder, beta=BETA, report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=3, disable_dropout=True
        )
        trainer = DPOTrainer(
            policy, reference, args=arguments, train_dataset=_dataset(), processing_class=_tokenizer(), data_collator=_collate
        )
        loss = trainer.compute_loss(trainer.model, _collate([]))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.transformer.named_parameters() if name in WATCHED}
    found = {"trl": version("trl"), "loss": loss.item(), "gradients": {name: _first(name, gradients[name]) for name in WATCHED}}
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    print(FILE.read_text())


def _first(name: str, gradient: Tensor | None) -> list[float]:
    assert gradient is not None
    ours = gradient.t() if name.endswith(TRANSPOSED) else gradient
    return [float(value) for value in ours.flatten()[:8]]


def _as_transformers(ours: GPT2) -> nn.Module:
    sizes = {name: getattr(CONFIG, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    config = HFConfig(activation_function="gelu_new", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **sizes)
    theirs = GPT2LMHeadModel(config)
    weights = {f"transformer.{name}": value.t() if name.endswith(TRANSPOSED) else value for name, value in ours.named_parameters()}
    theirs.load_state_dict(weights, strict=False)
    theirs.tie_weights()
    return theirs


def _collate(_: object) -> dict[str, Any]:
    """The pairs as trl's own collator lays them out: all chosen, then all rejected."""
    answers = rows()
    length = max(len(given) + len(answer) for given, answer in answers)
    batch = {
        name: torch.zeros(len(answers), length, dtype=torch.long) for name in ("input_ids", "attention_mask", "completion_mask")
    }
    for row, (given, answer) in enumerate(answers):
        whole = len(given) + len(answer)
        batch["input_ids"][row, :whole] = torch.tensor(given + answer)
        batch["attention_mask"][row, :whole] = 1
        batch["completion_mask"][row, len(given) : whole] = 1
    return batch


def _dataset() -> Dataset:
    """What its constructor wants to see; nothing is read of it."""
    return Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(CONFIG.vocab_size)}
    model = models.WordLevel(words, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="w39", pad_token="w0")


if __name__ == "__main__":
    main()
