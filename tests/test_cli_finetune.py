"""`gpt2 train finetune` and `gpt2 train merge`: what they print, how they exit, and that they leave alone what was there."""

import json
import os
import subprocess
import sys

import pytest

from app.cli import main
from model.network_files import load_model
from model.training.progress import read_log

QUICK = ["--steps", "2", "--batch-size", "4", "--precision", "float32", "--no-compile", "--device", "cpu"]


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    lines = ({"prompt": f"{a} and {b}:", "completion": f" {a}{b}" * (i % 5 + 1)} for i, a in enumerate("abcdef") for b in "uvwxyz")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def answers(file):
    lines = ({"prompt": f"{a} and {b}:", "chosen": f" {a}", "rejected": f" {b}"} for a in "abcdef" for b in "uvwxyz")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_finetuned_checkpoint_is_ready_to_be_served(base, pairs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", "finetune", str(pairs), "--model", str(base), "--out", str(out), *QUICK]) == 0
    said = capsys.readouterr()
    assert said.out == f"gpt2 serve --model {out}\n"
    assert "33 examples to train on; 43,520 of 43,520 parameters; 2 steps of 4" in said.err
    load_model(out)


def test_an_adapter_is_kept_and_merged_by_the_line_that_is_printed(base, pairs, tmp_path, capsys):
    out = tmp_path / "adapter"
    arguments = ["train", "finetune", str(pairs), "--model", str(base), "--out", str(out), *QUICK]
    lora = ["--lora", "--lora-rank", "2", "--lora-alpha", "4", "--lora-targets", "attn.c_attn,mlp.c_fc", "--keep-adapter"]
    assert main([*arguments, *lora]) == 0
    said = capsys.readouterr()
    assert said.out == f"gpt2 train merge --adapter {out} --out {out}-merged\n"
    assert "1,152 of 43,520 parameters" in said.err
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2
    assert main(said.out.split()[1:]) == 0
    assert capsys.readouterr().out == f"gpt2 serve --model {out}-merged\n"
    load_model(tmp_path / "adapter-merged")


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ('{"prompt": "a"}\n', [], 'data.jsonl, line 1: no "completion" field that is a string'),
        ('{"prompt": "a", "completion": "b"}\n{"text": "c"}\n', [], 'data.jsonl, line 2: no "prompt" field'),
        ('{"text": "a"}\n{"prompt": "a", "completion": "b"}\n', [], 'data.jsonl, line 2: no "text" field'),
        ('{"question": "a"}\n', [], 'data.jsonl, line 1: neither a "text" nor a "prompt" and a "completion" field'),
        ('{"text": "a"}\n', [], "too few even for windows of 16"),
        ('{"text": "a"}\n', ["--model", "/gone"], "no such directory: '/gone'"),
        ('{"text": "a"}\n', ["--lora-rank", "4"], "--lora-rank is an option of --lora; add it"),
        ('{"text": "a"}\n', ["--keep-adapter"], "--keep-adapter is an option of --lora; add it"),
        ('{"text": "a"}\n', ["--lora", "--lora-targets", "c_attn"], "'c_attn' is no projection"),
        ('{"text": "a"}\n', ["--minutes", "0"], "--minutes is 0.0; it must be above 0 and finite"),
        ('{"text": "a"}\n', ["--validation-fraction", "1"], "validation fraction is 1.0; it must lie between 0 and 1"),
        ('{"text": "a"}\n', ["--dropout", "1.5"], "--dropout is 1.5; it must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2_and_nothing_is_written(base, tmp_path, capsys, lines, options, message):
    (tmp_path / "data.jsonl").write_text(lines)
    call = ["train", "finetune", str(tmp_path / "data.jsonl"), "--model", str(base), "--out", str(tmp_path / "out"), *options]
    assert main(call) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("gpt2: ")
    assert message in said
    assert [file.name for file in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_checkpoint_is_not_overwritten(base, pairs, capsys):
    before = (base / "model.safetensors").read_bytes()
    assert main(["train", "finetune", str(pairs), "--model", str(base), "--out", str(base), *QUICK]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert (base / "model.safetensors").read_bytes() == before
    assert sorted(file.name for file in base.iterdir()) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]


def test_a_beta_of_nothing_is_no_option_that_was_left_out(tmp_path, capsys):
    assert main(["train", "dpo", "--resume", "--out", str(tmp_path), "--beta", "0"]) == 2
    assert "--beta cannot change in a run that goes on" in capsys.readouterr().err


def test_data_or_resume_must_be_named_and_a_run_must_be_there(tmp_path, capsys):
    assert main(["train", "finetune", "--out", str(tmp_path)]) == 2
    assert "name the data to train on, or --resume alone" in capsys.readouterr().err
    assert main(["train", "finetune", "--resume", "--out", str(tmp_path)]) == 2
    assert "holds no run to resume" in capsys.readouterr().err
    for option in (["--optimizer", "muon"], ["--lora"], ["--lora-rank", "3"]):
        assert main(["train", "finetune", "--resume", "--out", str(tmp_path), *option]) == 2
        assert f"{option[0]} cannot change in a run that goes on" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["finetune", "dpo"])
def test_two_processes_learn_what_one_learns(base, pairs, tmp_path, capfd, kind):
    if kind == "dpo":
        pairs = answers(tmp_path / "answers.jsonl")
    quick = [option for option in QUICK if kind != "dpo" or option != "--no-compile"]
    options = [str(pairs), "--model", str(base), *quick, "--steps", "6", "--validate-every", "1", "--dropout", "0"]
    assert main(["train", kind, *options, "--out", str(tmp_path / "one")]) == 0
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "app",
        "train",
        kind,
    ]
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))  # noqa: PTH109  # the repository
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options, "--out", str(tmp_path / "two")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"gpt2 serve --model {tmp_path / 'two'}\n"
    one, two = (
        [float(row["validation_loss"]) for row in read_log(tmp_path / name / "training" / "log.csv") if row["validation_loss"]]
        for name in ("one", "two")
    )
    assert two == pytest.approx(one, abs=2e-3)
    assert len(one) == 6


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: ...")]
)
def test_memory_that_runs_short_is_told_in_one_line_with_what_takes_less(base, pairs, tmp_path, capsys, monkeypatch, error):
    def fail(trainer):
        raise error

    monkeypatch.setattr("model.training.trainer.Trainer._step", fail)
    assert main(["train", "finetune", str(pairs), "--model", str(base), "--out", str(tmp_path / "out"), *QUICK]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gpt2: there is not enough memory; a smaller --batch-size, more parts by --accumulation, or ")


@pytest.mark.parametrize(("kind", "rows"), [("pretrain", "windows"), ("finetune", "examples"), ("dpo", "pairs")])
def test_the_help_says_what_a_batch_is_made_of_and_offers_nothing_that_is_always_refused(capsys, kind, rows):
    with pytest.raises(SystemExit):
        main(["train", kind, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"--batch-size N {rows}" in printed
    assert ("--compile" in printed) == ("--activation-checkpointing" in printed) == (kind != "dpo")
