"""Preference optimisation from a tiny checkpoint: what it comes to prefer, what is kept, and that a resumed run ends the same."""

import json
import math
import random
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.chat_template import NAMED
from model.config import GPT2Config
from model.network_files import load_model
from model.training.data.options import DataOptions
from model.training.distributed import Processes
from model.training.dpo_loss import DPO, DPOLoss
from model.training.errors import TrainingError
from model.training.finetune import finetune, resume
from model.training.finetune_defaults import choose_recipe
from model.training.finetune_plan import FinetuneOptions
from model.training.lora import LoRA
from model.training.memory import num_parts
from model.training.progress import read_log
from model.training.recipe import Recipe
from model.training.run import ProgressLine
from model.training.segments import Changes
from model.training.tasks.preferences import PreferenceTask
from model.training.tasks.task import Material

CPU, ALONE = torch.device("cpu"), Processes()
SHORT = {"max_steps": 12, "validate_every": 4, "batch_size": 8, "learning_rate": 3e-3, "bfloat16": False, "dropout": 0.1}


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
    held_out = PreferenceTask(out / "training" / "tokens", DPO(0.5)).source(Recipe(max_steps=1), ALONE).validation(0)
    objective = DPOLoss(load_model(out).eval(), 0.5, bfloat16=False)
    assert all((objective.margins(*part) > 0).all() for part in held_out)
    assert "reward accuracy 100.0%" in said[-1]


def test_the_log_and_the_card_tell_how_many_pairs_were_learned_and_at_which_beta(base, pairs, tmp_path):
    out = tmp_path / "out"
    assert finetune(options_of(base, pairs), out, CPU, ALONE, lambda line: None)
    shares = [float(row["reward_accuracy"]) for row in read_log(out / "training" / "log.csv") if row["validation_loss"]]
    card = (out / "README.md").read_text()
    assert len(shares) == 3
    assert f"| reward accuracy | {shares[-1]:.1%} of the held-out pairs" in card
    assert " nats a pair" in card
    assert "| `beta` | 0.5 |" in card


def test_a_run_that_learned_nothing_speaks_of_pairs(base, pairs, tmp_path):
    said, held_out = [], tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"prompt": "a 1:", "chosen": " well, perhaps so", "rejected": " yes"}) + "\n")
    against = replace(options_of(base, pairs), data=DataOptions(paths=[pairs], validation=[held_out]))
    assert finetune(against, tmp_path / "out", CPU, ALONE, said.append)
    assert "the base orders these pairs as well" in said[-1]


def test_a_pair_is_planned_for_as_two_sequences():
    """Of the longest pairs a batch holds two whole contexts each."""
    config = GPT2Config(vocab_size=500, n_positions=512, n_embd=256, n_layer=4, n_head=4, eos_token_ids=(499,))
    material = Material(num_rows=10_000, tokens_per_row=1000, is_text=False, sequences_per_row=2)
    recipe = choose_recipe({"bfloat16": False, "batch_size": 16}, config, material, False, CPU, ALONE, pytest.fail)
    assert num_parts(16, 1024, config, recipe, CPU) == recipe.accumulation > num_parts(16, 512, config, recipe, CPU)


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


def test_what_it_does_not_do_is_refused_of_a_run_that_goes_on_too(base, pairs, tmp_path):
    assert finetune(options_of(base, pairs), tmp_path / "out", CPU, ALONE, lambda line: None)
    changes = Changes(recipe={"max_steps": 2, "checkpoint_activations": True})
    with pytest.raises(TrainingError, match="without activation checkpointing; leave out --activation-checkpointing"):
        resume(tmp_path / "out", CPU, ALONE, lambda line: None, changes=changes, kind="dpo")


def test_the_reference_and_what_it_is_held_against_are_of_one_precision(base, pairs, tmp_path):
    assert finetune(options_of(base, pairs), tmp_path / "out", CPU, ALONE, lambda line: None)
    changes = Changes(recipe={"max_steps": 2, "bfloat16": True})
    with pytest.raises(TrainingError, match="measured in the other precision; leave out --precision"):
        resume(tmp_path / "out", CPU, ALONE, lambda line: None, changes=changes, kind="dpo")


def test_in_bfloat16_a_network_that_has_not_learned_yet_prefers_nothing(base, pairs, tmp_path):
    said = []
    assert finetune(options_of(base, pairs, bfloat16=True, max_steps=1), tmp_path / "out", CPU, ALONE, said.append)
    assert "validation loss now 0.6931" in "\n".join(said)


def test_conversations_are_kept_with_the_template_they_were_written_by(base, tmp_path):
    file = tmp_path / "chats.jsonl"
    said = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": answer}] for i in range(20) for answer in "yn"]
    pairs = zip(said[::2], said[1::2], strict=True)
    file.write_text("".join(json.dumps({"chosen": chosen, "rejected": rejected}) + "\n" for chosen, rejected in pairs))
    wanted = replace(options_of(base, file), data=DataOptions(paths=[file], template="dialogpt"))
    assert finetune(wanted, tmp_path / "out", CPU, ALONE, lambda line: None)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == NAMED["dialogpt"]
