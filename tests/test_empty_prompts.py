"""An empty prompt is learned as it is asked, whichever way: the beginning of a text, behind an end token."""

import json

import httpx
import pytest
import torch

from app.cli import main
from app.prompt import read_prompts
from app.settings import Settings
from model.checkpoint import load_tokenizer
from model.tokenizer import Reading
from model.training.data.example_files import ExampleEncoder
from model.training.data.example_records import Pair
from model.training.data.examples import IGNORED, Example
from model.training.data.options import DataOptions
from model.training.distributed import Processes
from model.training.finetune import finetune
from model.training.finetune_plan import FinetuneOptions
from tests.conftest import running_server
from tests.model.tokenizer_directories import GPT2_FILES, KINDS, write_directory

LEARNED = " the calm sea"
RECIPE = {"max_steps": 60, "validate_every": 60, "batch_size": 2, "learning_rate": 2e-2, "bfloat16": False}


@pytest.fixture(scope="module")
def taught(tiny_checkpoint, tmp_path_factory):
    """A checkpoint that has learned one thing to say from nothing."""
    directory = tmp_path_factory.mktemp("taught")
    data = directory / "data.jsonl"
    data.write_text((json.dumps({"prompt": "", "completion": LEARNED}) + "\n") * 4)
    options = FinetuneOptions(data=DataOptions(paths=[data]), model=str(tiny_checkpoint), recipe=RECIPE)
    finetune(options, directory / "out", torch.device("cpu"), Processes(), lambda line: None)
    return directory / "out"


@pytest.fixture(scope="module")
def client(taught):
    settings = Settings(model=str(taught), port=0, device="cpu", dtype="float32", max_running=2, _env_file=None)
    with running_server(settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def test_every_route_says_what_was_learned_to_be_said_from_nothing(client):
    def ask(route, **body):
        return client.post(route, json=body).raise_for_status().json()

    assert ask("/generate", inputs="", parameters={"max_new_tokens": 8})["generated_text"] == LEARNED
    assert ask("/v1/completions", prompt="", max_tokens=8, temperature=0)["choices"][0]["text"] == LEARNED
    assert ask("/v1/completions", prompt=[""], max_tokens=8, temperature=0)["choices"][0]["text"] == LEARNED


def test_a_score_and_a_look_inside_begin_with_nothing_too(client):
    (learned, other) = client.post("/v1/score", json={"prompt": "", "candidates": [LEARNED, " grey"]}).json()["data"]
    assert learned["logprob"] > -0.2 > other["logprob"]
    inside = client.post("/v1/inspect", json={"prompt": "", "max_new_tokens": 1}).raise_for_status().json()
    assert inside["usage"]["prompt_tokens"] == 1


def test_the_command_line_begins_with_nothing(taught, capsys):
    assert main(["generate", "", "--temperature", "0", "--model", str(taught), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{LEARNED}\n"
    assert main(["inspect", "", "--model", str(taught)]) == 0
    assert "1 token, which nothing predicts" in capsys.readouterr().out


def no_template():
    raise AssertionError("a prompt needs none")


@pytest.mark.parametrize("kind", ["plain", "BOS", "WordPiece", "tokenizer.json"])
@pytest.mark.parametrize("prompt", ["", " ", "Hello world", "<|user|>Hello wörd<|endoftext|>"])
def test_a_prompt_is_learned_as_it_is_asked(tmp_path, kind, prompt):
    """Also where the tokenizer puts a token before every text, or finds nothing in one."""
    files = {"added_tokens.json": {"<s>": 8192}, "tokenizer_config.json": {"add_bos_token": True, "bos_token": "<s>"}}
    tokenizer = load_tokenizer(write_directory(tmp_path, GPT2_FILES | files if kind == "BOS" else KINDS[kind]()))
    assert kind != "BOS" or tokenizer.encode("") == [8192]
    (asked,) = read_prompts(tokenizer, [prompt], Reading(), None, 8191)
    learned = ExampleEncoder(tokenizer, 8191, no_template).encode(Pair(prompt, ""))
    assert learned == Example(asked.ids, [IGNORED] * (len(asked.ids) - 1) + [8191])
    assert asked.ids == [8191] or prompt
