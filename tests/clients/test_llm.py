"""llm, the command line that remembers what it was told; models of ours are a few lines in its YAML file."""

import json
import os
import subprocess
import sys

import pytest

MODELS = """
- model_id: words
  model_name: talking-gpt2
  api_base: {v1}
  completion: true
- model_id: talk
  model_name: talking-gpt2
  api_base: {v1}
"""


@pytest.fixture
def llm(service, tmp_path):
    """Run the command; what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(v1=service.v1))
    env = os.environ | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}

    def run(*arguments):
        command = [sys.executable, "-m", "llm", *arguments]
        result = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.mark.parametrize("options", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_it_completes(llm, options, service):
    printed = llm("-m", "words", "The old man", "-o", "max_tokens", "8", "-o", "temperature", "0", *options)
    assert printed.rstrip("\n") == service.completed("The old man", max_tokens=8, temperature=0).rstrip("\n")


@pytest.mark.parametrize("options", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_it_chats(llm, options, service):
    printed = llm("-m", "talk", "Who are you?", "-o", "max_tokens", "8", "-o", "temperature", "0", *options)
    assert printed.rstrip("\n") == service.replied("Who are you?", max_tokens=8, temperature=0).rstrip("\n")


def test_it_goes_on_with_a_chat_and_logs_it(llm):
    llm("-m", "talk", "Who are you?", "-s", "Be brief.", "-o", "max_tokens", "8")
    llm("-c", "And then?", "-o", "max_tokens", "8")
    prompts = [entry["prompt"] for entry in json.loads(llm("logs", "--json"))]
    assert sorted(prompts) == ["And then?", "Who are you?"]
