"""lm-evaluation-harness: its `local-completions` against the service says what its own `hf` backend says of the same checkpoint."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = Path(__file__).parent / "tasks"
DOCUMENTATION = (TASKS.parent.parent.parent / "docs" / "evaluation.md").read_text()
NAMES = ("plain_endings", "short_texts", "next_words")
# Of a context of 512 tokens `local-completions` leaves one to be generated and one before the text; `hf` is given the same windows.
CONTEXT = 512
WINDOW = CONTEXT - 2
WAYS = {
    "token ids, in batches, several at once": {"tokenized_requests": True, "batch_size": 8, "num_concurrent": 2},
    "texts, one by one": {"tokenized_requests": False, "batch_size": 1, "num_concurrent": 1},
}


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory):
    """Run the harness on the tasks beside this file; its results by task, and its samples by task in order."""
    home = tmp_path_factory.mktemp("home")

    def run(backend, batch_size=8, **arguments):
        output = tmp_path_factory.mktemp("output")
        given = ",".join(f"{name}={value}" for name, value in arguments.items())
        command = [sys.executable, "-m", "lm_eval", "run", "--model", backend, "--model_args", given, "--tasks", *NAMES]
        command += [
            "--include_path",
            ".",
            "--device",
            "cpu",
            "--batch_size",
            str(batch_size),
            "--output_path",
            str(output),
            "--log_samples",
        ]
        env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, cwd=TASKS, env=env, capture_output=True, encoding="utf-8", timeout=280)
        assert result.returncode == 0, result.stderr[-5000:]
        return read_results(output)

    return run


def read_results(output):
    (results,) = output.rglob("results_*.json")
    samples = {name: read_samples(next(output.rglob(f"samples_{name}_*.jsonl"))) for name in NAMES}
    return json.loads(results.read_text())["results"], samples


def read_samples(path):
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="session")
def of_its_own(evaluate, checkpoint):
    return evaluate("hf", pretrained=checkpoint, dtype="float32", max_length=WINDOW)


@pytest.fixture(scope="session", params=WAYS.values(), ids=WAYS)
def of_the_service(request, evaluate, checkpoint, service):
    way = {"model": "talking-gpt2", "tokenizer": checkpoint, "tokenizer_backend": "huggingface", "max_length": CONTEXT}
    return evaluate("local-completions", base_url=f"{service.v1}/completions", **way, **request.param)


def numbers(value):
    """Every number within a sample's responses, at any depth; some of them are written as text."""
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if value not in ("True", "False", True, False) else [float(value in ("True", True))]


def test_the_accuracies_are_the_same(of_its_own, of_the_service):
    for metric in ("acc,none", "acc_norm,none"):
        assert of_the_service[0]["plain_endings"][metric] == of_its_own[0]["plain_endings"][metric] > 0.25


def test_the_log_likelihoods_of_endings_are_the_same(of_its_own, of_the_service):
    """And whether each ending is what the model would have written itself."""
    theirs, ours = (numbers([sample["resps"] for sample in run[1]["plain_endings"]]) for run in (of_its_own, of_the_service))
    assert len(ours) == 16 * 4 * 2
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_the_log_likelihoods_of_whole_texts_are_the_same(of_its_own, of_the_service):
    theirs, ours = (numbers([sample["resps"] for sample in run[1]["short_texts"]]) for run in (of_its_own, of_the_service))
    assert len(ours) == 8
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_the_greedy_texts_are_the_same(of_its_own, of_the_service):
    theirs, ours = ([sample["filtered_resps"] for sample in run[1]["next_words"]] for run in (of_its_own, of_the_service))
    assert ours == theirs


def test_the_documentation_shows_these_results(of_the_service):
    documented = dict(re.findall(r"\|none +\| +0\|(\w+) *\|.\s*\| *([\d.]+)\|", DOCUMENTATION))
    results = of_the_service[0]["plain_endings"] | of_the_service[0]["short_texts"]
    assert documented == {name: f"{results[f'{name},none']:.4f}" for name in documented}
    assert len(documented) == 5
