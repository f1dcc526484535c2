"""Runs that go on otherwise than they began, what they show on the way, and the card of what they made."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from app.cli import main
from model.training.progress import read_log

TINY = "--device cpu --n-embd 16 --n-layer 1 --n-head 2 --n-positions 16 --vocab-size 257 --batch-size 4 --precision float32"


@pytest.fixture
def folder(tmp_path, monkeypatch, shakespeare):
    (tmp_path / "text.txt").write_text(shakespeare[:6000])
    lines = ({"prompt": f"{a}:", "completion": f" {a}" * 3} for a in "abcdefghijklmnopqrstuvwxyz")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    for kind in ("pretrain", "finetune"):  # another malloc would stay for all tests after this one
        monkeypatch.setattr(f"app.commands.{kind}.prepare_for_training", lambda: None)
    monkeypatch.setattr("model.training.run.plot_losses", lambda log, plot, title: None)
    return tmp_path


@pytest.fixture(scope="module")
def shakespeare():
    return (Path(__file__).parent / "data" / "shakespeare.txt").read_text(encoding="utf-8")


@pytest.fixture
def gpt2(capsys):
    def run(line, code=0):
        sys.stderr.reconfigure(errors="backslashreplace")  # as the real one is
        assert main(shlex.split(line)) == code
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def steps(out):
    return [int(row["step"]) for row in read_log(out / "training" / "log.csv") if row["loss"]]


def plan(out):
    return json.loads((out / "training" / "run.json").read_text())


def test_a_finished_run_is_given_more_steps(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 4 {TINY}")
    best = json.loads((folder / "m" / "training" / "best.json").read_text())
    _, reported = gpt2("train pretrain --resume --out m --device cpu --steps 20 --learning-rate 0.01")
    assert reported.splitlines()[:2] == [
        "the run goes on otherwise than it began: 20 steps to step 24, the rates rising and falling anew",
        "the run stands at step 4",
    ]
    assert steps(folder / "m") == list(range(1, 25))
    recipe = plan(folder / "m")["recipe"]
    assert (recipe["first_step"], recipe["max_steps"], recipe["learning_rate"]) == (4, 24, 0.01)
    segments = plan(folder / "m")["story"]["segments"]
    assert [segment["first_step"] for segment in segments] == [0, 4]
    assert segments[1]["changes"] == {"max_steps": 20, "learning_rate": 0.01}
    assert json.loads((folder / "m" / "training" / "best.json").read_text())["validation_loss"] < best["validation_loss"]
    _, reported = gpt2("train pretrain --resume --out m --device cpu")
    assert reported.startswith("the run stands at step 24, its end: nothing is left to train\n")
    _, reported = gpt2("train pretrain --resume --out m --device cpu --learning-rate 0.001", code=2)
    assert reported == "gpt2: the run has made all its 24 steps; add some by --steps or --minutes\n"


def test_a_run_is_given_more_minutes(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    gpt2("train pretrain --resume --out m --device cpu --minutes 0.005")
    assert plan(folder / "m")["recipe"]["max_steps"] > 2
    assert plan(folder / "m")["story"]["segments"][1]["changes"] == {"minutes": 0.005}


def test_fine_tuning_on_text_is_given_more_steps_and_then_more_minutes(folder, gpt2):
    """The speed was measured by steps before the schedule's first one, for which there is no length of windows."""
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    gpt2("train finetune text.txt --model base --out m --steps 4 --precision float32 --device cpu")
    gpt2("train finetune --resume --out m --steps 4 --device cpu")
    gpt2("train finetune --resume --out m --minutes 0.005 --device cpu")
    assert plan(folder / "m")["recipe"]["first_step"] == 8
    assert len(steps(folder / "m")) > 8


def test_fine_tuning_goes_on_after_it_ended_early(folder, gpt2):
    """What was no better before is no reason to end what has been given new rates."""
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    finetune = "train finetune pairs.jsonl --model base --out m --steps 40 --batch-size 4 --precision float32 --device cpu"
    _, reported = gpt2(f"{finetune} --learning-rate 1e-9 --patience 2 --validate-every 1 --warmup-steps 0")
    assert re.search(r"ended early: 2 validations without a better loss, at step \d+ of 40\n", reported)
    ended = steps(folder / "m")[-1]
    assert ended < 40
    _, reported = gpt2("train finetune --resume --out m --device cpu --steps 12 --learning-rate 0.01")
    assert f"12 steps to step {ended + 12}" in reported
    assert steps(folder / "m")[-1] == ended + 12


def test_what_a_model_makes_of_a_prompt_is_shown_at_each_validation(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 4 --validate-every 2 --sample 'the people' --sample you {TINY}")
    _, reported = gpt2("train pretrain --resume --out m --device cpu --steps 2")
    assert reported.count('\n  "the people" goes on:\n    ') == reported.count('\n  "you" goes on:\n    ')
    assert reported.count('"you" goes on:') == reported.count(": validation loss ") > 0
    _, reported = gpt2("train pretrain --resume --out m --device cpu --steps 2 --sample Rome")
    assert "the people" not in reported
    assert '\n  "Rome" goes on:\n' in reported


def test_text_is_measured_in_bits_per_byte_and_examples_by_exact_match(folder, gpt2):
    _, reported = gpt2(f"train pretrain text.txt --out m --steps 4 {TINY}")
    loss, bits = map(float, re.search(r"the best, validation loss ([\d.]+), ([\d.]+) bits per byte at step", reported).groups())
    assert bits == pytest.approx(loss / 0.6931, rel=0.02), "bytes are the tokens"
    options = "--steps 60 --batch-size 8 --learning-rate 0.03 --precision float32 --device cpu --validation-fraction 0.3"
    _, reported = gpt2(f"train finetune pairs.jsonl --model m --out tuned {options}")
    *_, last = reported.splitlines()
    assert re.fullmatch(
        r"validation loss [\d.]+, exact match 0.0% before; validation loss [\d.]+, exact match [\d.]+% at step \d+, which is .*",
        last,
    )
    rows = [row for row in read_log(folder / "tuned" / "training" / "log.csv") if row["validation_loss"]]
    assert all(0 <= float(row["exact_match"]) <= 1 for row in rows)


def test_fine_tuning_that_makes_things_worse_says_so_at_each_validation(folder, gpt2):
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    finetune = "train finetune text.txt --model base --out m --steps 2 --precision float32 --device cpu --validate-every 1"
    _, reported = gpt2(f"{finetune} --learning-rate 10")
    assert reported.count(", worse than the base\n") == 2
    assert "the best so far" not in reported
    assert ", the best that was learned, which was kept: the base predicts these texts better; " in reported


@pytest.mark.parametrize("further", ["", "--resume"])
def test_fine_tuning_that_broke_before_it_was_any_good_begins_elsewhere(folder, gpt2, monkeypatch, further):
    """What it saved is ruined: to go on from there is no remedy."""
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    finetune = "train finetune text.txt --model base --out m --steps 3 --precision float32 --device cpu --validate-every 1"
    if further:
        gpt2(f"{finetune} --learning-rate 10")
        finetune = "train finetune --resume --out m --device cpu --steps 2"
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *of: torch.tensor(float("nan")))
    _, reported = gpt2(finetune, code=2)
    assert reported.splitlines()[-1] == (
        "gpt2: the gradients are no longer finite, and nothing better than the base was saved; begin anew with a smaller "
        "--learning-rate, in another --out"
    )


def card(out):
    text = (out / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_each_model_has_a_card(folder, gpt2):
    line = f"train pretrain text.txt --out m --steps 4 {TINY}"
    gpt2(line)
    head, body = card(folder / "m")
    assert head == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["gpt2"]}
    for words in (
        "# m\n",
        f"gpt2 {line}\n",
        "`text.txt`",
        "bytes of text",
        "| layers | 1 |",
        "bits per byte",
        "In the directory of this file:\n\n    gpt2 serve --model .\n",
    ):
        assert words in body
    assert "at step 4; the run has made 4 of 4" in body
    assert "\n\n\n" not in body
    assert "| `windows` | 1/4 of the context from 0%, 1/2 of the context from 30%, all of the context from 60% |\n" in body
    assert "| `warmup_steps` | 2 |" in body, "of a hundred, as many as such a run has room for"
    assert "1 threads" not in body
    gpt2("train finetune pairs.jsonl --model m --out tuned --lora --keep-adapter --steps 2 --precision float32 --device cpu")
    head, body = card(folder / "tuned")
    assert head["library_name"] == "peft"
    assert "`m`, a GPT-2 of" in body
    assert "LoRA of rank 8" in body
    assert "26 examples" in body
    assert "    gpt2 train merge --adapter . --out ../MERGED\n" in body
    assert "muon" not in body
    assert "`windows`" not in body
    assert "exact match" in body
    assert str(folder) not in body, "folders of a machine are nobody's business"


def test_a_card_tells_each_part_of_a_run_with_its_machine(folder, gpt2, monkeypatch):
    monkeypatch.setattr("model.training.run.machine_name", lambda device: "a laptop")
    gpt2(f"train pretrain text.txt --out m --steps 4 {TINY}")
    monkeypatch.setattr("model.training.run.machine_name", lambda device: "a server")
    gpt2("train pretrain --resume --out m --device cpu --steps 20 --learning-rate 0.01")
    gpt2("train pretrain --resume --out m --device cpu --steps 1")
    _, body = card(folder / "m")
    parts = re.findall(r"\| (\d+) \| (\d+) \| ([\d,]+) \| \d+:\d\d \| (a \w+) \|", body)
    assert parts == [("0", "4", "256", "a laptop"), ("4", "21", "1,344", "a server")]
    assert body.count("From step ") == 3


@pytest.mark.parametrize("lost", ["training/tokens/train-00000.bin", "vocab.json", "training/state.safetensors"])
def test_changes_of_a_run_that_could_not_go_on_are_not_kept(folder, gpt2, lost):
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    before, contents = plan(folder / "m"), (folder / "m" / lost).read_bytes()
    (folder / "m" / lost).write_bytes(b"damaged")
    gpt2("train pretrain --resume --out m --device cpu --steps 2 --learning-rate 0.5", code=2)
    assert plan(folder / "m") == before
    (folder / "m" / lost).write_bytes(contents)
    gpt2("train pretrain --resume --out m --device cpu --steps 2")
    _, body = card(folder / "m")
    assert "0.5" not in body
    assert body.count("From step ") == 2


def test_a_card_has_the_recipe_by_which_its_model_was_made(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 4 {TINY}")
    gpt2("train pretrain --resume --out m --device cpu --steps 20 --learning-rate 0.01 --dropout 0.1")
    gpt2("train pretrain --resume --out m --device cpu --steps 3 --learning-rate 5 --dropout 0.9")
    _, body = card(folder / "m")
    assert re.search(r"at step (1\d|2[0-4]); the run has made 27 of 27", body)
    assert "| `dropout` | 0.1 |" in body
    assert "| `max_steps` | 24 |" in body


def test_a_card_names_what_has_blanks_and_line_breaks_so_that_it_can_be_pasted(folder, gpt2):
    (folder / "text.txt").rename(folder / "my\ntext.txt")
    gpt2(f"train pretrain 'my\ntext.txt' --out 'my\nfirst model' --steps 2 {TINY}")
    _, body = card(folder / "my\nfirst model")
    assert "# my first model\n" in body
    assert "- `my text.txt`" in body
    commands = [" ".join(line) for line in pasted(body)]
    assert f"gpt2 train pretrain my\ntext.txt --out my\nfirst model --steps 2 {TINY}" in commands
    assert "gpt2 serve --model ." in commands


def pasted(body):
    """What a shell makes of the card's blocks of code."""
    blocks = re.findall(r"(?:^    .*\n)+", body, re.MULTILINE)
    return [shlex.split(re.sub("^    ", "", block, flags=re.MULTILINE)) for block in blocks]


def test_a_readme_of_somebody_elses_stays(folder, gpt2):
    (folder / "m").mkdir()
    (folder / "m" / "README.md").write_text("mine")
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    assert (folder / "m" / "README.md").read_text() == "mine"


def test_texts_whose_names_are_no_utf8_are_trained_on_and_named_in_the_card(folder, gpt2):
    (folder / "text.txt").rename(folder / "te\udcffxt.txt")
    gpt2(f"train pretrain 'te\udcffxt.txt' --out m --steps 2 {TINY}")
    gpt2("train pretrain --resume --out m --steps 1 --device cpu")
    gpt2("train finetune 'te\udcffxt.txt' --model m --out tuned --precision float32 --device cpu --steps 1")
    gpt2("train finetune --resume --out tuned --device cpu --steps 1")
    assert steps(folder / "m") == [1, 2, 3]
    for out in ("m", "tuned"):
        _, body = card(folder / out)
        assert "- `te\\udcffxt.txt`" in body


def test_a_base_whose_name_is_no_utf8_is_found_again(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    (folder / "m").rename(folder / "m\udcff")
    gpt2(
        "train finetune pairs.jsonl --model 'm\udcff' --out tuned --lora --keep-adapter --precision float32 --device cpu --steps 1"
    )
    gpt2("train finetune --resume --out tuned --device cpu --steps 1")
    gpt2("train merge --adapter tuned --out merged")
    _, body = card(folder / "tuned")
    assert "`m\\udcff`, a GPT-2 of" in body


def test_a_directory_in_which_a_run_could_not_be_resumed_is_refused(folder, gpt2):
    _, reported = gpt2(f"train pretrain text.txt --out 'm\udcff' --steps 2 {TINY}", code=2)
    assert reported == "gpt2: --out 'm\\udcff' is no UTF-8, so that the run could not be resumed; name another --out\n"


def test_a_sample_that_is_no_utf8_is_refused_before_anything_is_done(folder, gpt2):
    printed, reported = gpt2(f"train pretrain text.txt --out m --steps 2 {TINY} --sample good --sample 'caf\udce9'", code=2)
    assert (printed, reported) == ("", "gpt2: --sample 'caf\\udce9' is no UTF-8 text; give it in UTF-8, as the data is\n")
    assert not (folder / "m").exists()


@pytest.mark.parametrize(
    "command", ["train finetune pairs.jsonl --model base --steps 1 --device cpu", "train merge --adapter tuned"]
)
@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "vocab.json", "generation_config.json"])
def test_files_that_a_model_would_be_written_over_or_with_are_refused_by_name(folder, gpt2, command, file):
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    if "merge" in command:
        gpt2("train finetune pairs.jsonl --model base --out tuned --lora --keep-adapter --precision float32 --device cpu --steps 1")
    (folder / "mine").mkdir()
    (folder / "mine" / file).write_text("{}")
    _, reported = gpt2(f"{command} --out mine", code=2)
    assert reported.startswith(f"gpt2: mine/{file} ")
    assert reported.endswith("; choose another --out\n")
    assert [(file.name, file.read_text()) for file in (folder / "mine").iterdir()] == [(file, "{}")]


def test_what_a_killed_run_has_left_is_in_the_way_of_no_fine_tuning(folder, gpt2, monkeypatch):
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    for name in ("model.safetensors", "config.json", "training/state.safetensors", "training/best.json"):
        (folder / "m" / name).unlink()
    _, reported = gpt2("train finetune pairs.jsonl --model base --out m --steps 1 --precision float32 --device cpu")
    assert "an earlier run here ended before anything was saved: this one begins anew\n" in reported


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_damaged_plan_is_refused_with_what_helps(folder, gpt2, kind):
    gpt2(f"train pretrain text.txt --out base --steps 2 {TINY}")
    if kind == "finetune":
        gpt2("train finetune pairs.jsonl --model base --out tuned --steps 1 --precision float32 --device cpu")
    out = folder / ("base" if kind == "pretrain" else "tuned")
    whole = plan(out)
    lacking = [
        {name: value for name, value in whole.items() if name != lost} for lost in whole if lost in ("config", "base", "recipe")
    ]
    for damaged in (*lacking, {"kind": kind}, whole | {"recipe": {}}, whole | {"recipe": whole["recipe"] | {"max_steps": 0}}):
        (out / "training" / "run.json").write_text(json.dumps(damaged))
        _, reported = gpt2(f"train {kind} --resume --out {out.name} --device cpu", code=2)
        assert reported.startswith(f"gpt2: {out.name}/training/run.json is damaged: ")
        assert reported.endswith("; put back a copy of it, or train anew with another --out\n")


def test_a_run_of_an_earlier_version_goes_on(folder, gpt2):
    gpt2(f"train pretrain text.txt --out m --steps 2 {TINY}")
    old = {name: value for name, value in plan(folder / "m").items() if name != "story"}
    del old["recipe"]["first_step"]
    (folder / "m" / "training" / "run.json").write_text(json.dumps(old))
    gpt2("train pretrain --resume --out m --device cpu --steps 1")
    assert steps(folder / "m") == [1, 2, 3]
