"""What a run has tokenised and cannot read again is named in one line, with what helps."""

import json
import random
import re
import shutil

import pytest
import torch

from model.training.data.options import DataOptions
from model.training.distributed import Processes
from model.training.dpo_loss import DPO
from model.training.errors import TrainingError
from model.training.finetune import finetune, resume
from model.training.finetune_plan import FinetuneOptions

CPU = torch.device("cpu")
DATA = {"text": "sea.txt", "examples": "examples.jsonl", "pairs": "pairs.jsonl"}


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """One of each kind of data, in two sets with weights, after its first step."""
    folder = tmp_path_factory.mktemp("runs")
    for part in ("one", "two"):
        (folder / part).mkdir()
        words = random.Random(part).choices(["the", "sea", "was", "calm", "and", "grey", "today."], k=1500)
        (folder / part / "sea.txt").write_text(" ".join(words))
        prompts = [f"{part} {number}:" for number in range(20)]
        for name, answers in (("examples", {"completion": " a"}), ("pairs", {"chosen": " a", "rejected": " b"})):
            lines = (json.dumps({"prompt": prompt} | answers) + "\n" for prompt in prompts)
            (folder / part / f"{name}.jsonl").write_text("".join(lines))
    for kind, name in DATA.items():
        data = DataOptions(paths=[folder / "one" / name, folder / "two" / name], weights=(1, 1))
        dpo = DPO() if kind == "pairs" else None
        recipe = {"max_steps": 1, "batch_size": 4, "bfloat16": False}
        options = FinetuneOptions(data=data, model=str(base), dpo=dpo, recipe=recipe)
        finetune(options, folder / kind, CPU, Processes(), lambda line: None)
    return folder


FILES = [
    *(("text", file) for file in ("index.json", "train-00000.bin", "train-00001.bin", "validation-00000.bin")),
    *((kind, file) for kind in ("examples", "pairs") for file in ("train.safetensors", "validation.safetensors", "sets.json")),
]


def refusal_to_go_on(out, kind):
    with pytest.raises(TrainingError) as refusal:
        resume(out, CPU, Processes(), lambda line: None, kind="dpo" if kind == "pairs" else "finetune")
    return str(refusal.value)


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"[1]", b'{"shards": []}', b'{"dtype": "<u2", "shards": {"train": 1}}'])
@pytest.mark.parametrize(("kind", "file"), FILES)
def test_a_damaged_file_of_a_runs_tokens_is_named_with_what_helps(runs, tmp_path, kind, file, contents):
    shutil.copytree(runs / kind, out := tmp_path / "out")
    damaged = out / "training" / "tokens" / file
    damaged.write_bytes(contents)
    said = refusal_to_go_on(out, kind)
    assert re.fullmatch(rf"{damaged} is damaged: .+; put back a copy of it, or train anew with another --out", said)


@pytest.mark.parametrize(
    ("kind", "file"), [("text", "index.json"), ("examples", "train.safetensors"), ("pairs", "train.safetensors")]
)
def test_tokens_that_are_gone_are_named_with_what_helps(runs, tmp_path, kind, file):
    shutil.copytree(runs / kind, out := tmp_path / "out")
    shutil.rmtree(out / "training" / "tokens")
    missing = out / "training" / "tokens" / file
    assert refusal_to_go_on(out, kind) == f"{missing} is missing; put back a copy of it, or train anew with another --out"


@pytest.mark.parametrize(("kind", "file"), [pair for pair in FILES if pair[1].endswith((".bin", ".safetensors"))])
def test_a_file_of_a_runs_tokens_that_was_cut_off_is_named(runs, tmp_path, kind, file):
    shutil.copytree(runs / kind, out := tmp_path / "out")
    cut = out / "training" / "tokens" / file
    cut.write_bytes(cut.read_bytes()[:-2])
    assert refusal_to_go_on(out, kind).startswith(f"{cut} is damaged: ")
