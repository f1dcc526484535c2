"""A run of fine-tuning whose base is no longer where it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from app.cli import main
from app.settings import DEFAULT_MODEL
from model.gpt2 import GPT2
from model.network_files import save_checkpoint
from model.training import finetune_plan
from model.training.finetune_plan import DEFAULT
from tests.tiny import BASE, make_base


@pytest.fixture
def folder(base, tmp_path, monkeypatch):
    """A run on `there`, after its first step."""
    shutil.copytree(base, tmp_path / "there")
    lines = (json.dumps({"prompt": f"{number}:", "completion": " a"}) + "\n" for number in range(20))
    (tmp_path / "examples.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.commands.finetune.prepare_for_training", lambda: None)
    return tmp_path


@pytest.fixture
def gpt2(capsys):
    def run(line, code=0):
        assert main(line.split()) == code
        return capsys.readouterr().err

    return run


BEGIN = "train finetune examples.jsonl --out m --batch-size 4 --steps 1 --precision float32 --device cpu"
GO_ON = "train finetune --resume --out m --device cpu --steps 1"


def plan():
    return json.loads(Path("m/training/run.json").read_text())


def test_a_run_goes_on_with_a_base_that_has_moved_where_it_is_told_so(folder, gpt2):
    gpt2(f"{BEGIN} --model there")
    (folder / "there").rename(folder / "here")
    said = gpt2(GO_ON, code=2)
    assert said == f"gpt2: no such directory: '{folder}/there'; it is the base of this run: say by --model where it is now\n"
    gpt2(f"{GO_ON} --model here")
    gpt2(GO_ON)
    assert plan()["base"] == str(folder / "here")


def test_another_model_than_the_base_is_refused_by_name(folder, gpt2, small_tokenizer):
    gpt2(f"{BEGIN} --model there")
    other = GPT2(BASE).init_weights(torch.Generator().manual_seed(1))
    save_checkpoint(folder / "other", other, small_tokenizer, torch.float32)
    said = gpt2(f"{GO_ON} --model other", code=2)
    assert said == f"gpt2: --model other is not what this run began with, which was {folder}/there; the weights are others\n"
    assert plan()["base"] == str(folder / "there")
    said = gpt2(f"{GO_ON} --model nowhere/at/all", code=2)
    assert said == "gpt2: no such directory: 'nowhere/at/all'\n"


def test_the_default_checkpoint_is_found_in_another_installation(folder, gpt2, small_tokenizer, monkeypatch):
    assert DEFAULT_MODEL.resolve() == DEFAULT

    def installed_in(place):
        directory = make_base(folder / place / "default", small_tokenizer)
        monkeypatch.setattr(finetune_plan, "DEFAULT", directory)
        monkeypatch.setattr("app.commands.finetune.DEFAULT_MODEL", directory)

    installed_in("one")
    gpt2(BEGIN)
    assert plan()["base"] == "the default checkpoint"
    shutil.rmtree("one")
    installed_in("two")
    gpt2(GO_ON)


def test_a_run_that_kept_the_default_checkpoint_by_its_path_goes_on(folder, gpt2, small_tokenizer, monkeypatch):
    """As earlier versions did."""
    gpt2(f"{BEGIN} --model there")
    monkeypatch.setattr(finetune_plan, "DEFAULT", folder / "there")
    assert plan()["base"] == str(folder / "there")
    gpt2(GO_ON)
    assert plan()["base"] == "the default checkpoint"
