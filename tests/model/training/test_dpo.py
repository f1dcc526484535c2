"""Preference optimisation from a tiny checkpoint: what it comes to prefer, what is kept, and that a resumed run ends the same."""

import json
import math
import random
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.network_files import load_model, save_checkpoint
from model.training.data.options import DataOptions
from model.training.data.prepared_preferences import PreparedPreferences
from model.training.distributed import Processes
from model.training.dpo_loss import DPO, DPOLoss
from model.training.errors import TrainingError
from model.training.finetune import finetune, resume
from model.training.finetune_plan import FinetuneOptions
from model.training.lora import LoRA
from model.training.progress import read_log
from model.training.recipe import Recipe
from model.training.run import ProgressLine

CONFIG = GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=2, n_head=2, eos_token_ids=(499,))
CPU, ALONE = torch.device("cpu"), Processes()
SHORT = {"max_steps": 12, "validate_every": 4, "batch_size": 8, "learning_rate": 3e-3, "bfloat16": False, "dropout": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    directory = tmp_path_factory.mktemp("base") / "tiny"
    save_checkpoint(directory, GPT2(CONFIG).init_weights(torch.Generator().manual_seed(0)), small_tokenizer, torch.float32)
    return directory


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Whatever is asked, the short answer is preferred."""
    draw = random.Random(0)
    asked = [f"{draw.choice('abcdef')} {number}:" for number in range(80)]
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": prompt, "chosen": " yes", "rejected": " well, perhaps so"}) + "\n" for prompt in asked)
    )
    return file


def options_of(base, pairs, lora=None, **recipe):
    return FinetuneOptions(
        data=DataOptions(paths=[pairs]), model=str(base), lora=lora, dpo=DPO(0.5), recipe=SHORT | recipe, keep_adapter=False
    )


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
def test_what_is_held_out_is_preferred_more_than_before(base, pairs, tmp_path, lora):
    out, said = tmp_path / "out", []
    assert finetune(options_of(base, pairs, lora, dropout=0.0), out, CPU, ALONE, said.append)
    losses = [float(row["validation_loss"]) for row in read_log(out / "training" / "log.csv") if row["validation_loss"]]
    assert "72 pairs to train on; " in "\n".join(said)
    assert "validation loss now 0.6931" in "\n".join(said)
    assert math.log(2) > losses[0] > losses[-1]
    held_out = PreparedPreferences(out / "training" / "tokens", DPO(0.5)).source(Recipe(max_steps=1), ALONE).validation(0)
    objective = DPOLoss(load_model(out).eval(), 0.5, bfloat16=False)
    assert all((objective.margins(*part) > 0).all() for part in held_out)


@pytest.mark.parametrize("lora", [None, LoRA(rank=4)], ids=["full", "lora"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(base, pairs, tmp_path, monkeypatch, lora):
    options = options_of(base, pairs, lora)
    assert finetune(options, tmp_path / "whole", CPU, ALONE, lambda line: None)
    on_step = ProgressLine.on_step

    def interrupt(line, step):
        on_step(line, step)
        if step.number == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(ProgressLine, "on_step", interrupt)
        assert not finetune(options, tmp_path / "parts", CPU, ALONE, lambda line: None)
    with pytest.raises(TrainingError, match="holds a run of gpt2 train dpo; resume it by that command"):
        resume(tmp_path / "parts", CPU, ALONE, lambda line: None)
    assert resume(tmp_path / "parts", CPU, ALONE, lambda line: None, kind="dpo")
    states = [load_file(tmp_path / name / "training" / "state.safetensors") for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf])
def test_a_beta_that_means_nothing_is_refused(beta):
    with pytest.raises(TrainingError, match=r"beta is .*; it must be above 0"):
        replace(DPO(), beta=beta)


def test_what_it_does_not_do_is_refused(base, pairs):
    with pytest.raises(TrainingError, match="without activation checkpointing; leave out --activation-checkpointing"):
        options_of(base, pairs, checkpoint_activations=True)
