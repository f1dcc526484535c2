"""The example clients as programs of their own, against a real server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

OF_CHECKPOINTS = {"heads.py"}  # which ask no server; tests/test_heads.py has them
EXAMPLES = sorted(path for path in (Path(__file__).parent.parent / "examples").glob("*.py") if path.name not in OF_CHECKPOINTS)


def run(example: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GPT2_", "OPENAI_", "HF_"))}
    # -X utf8: generated text may be any, which the C locale could not print.
    command = [sys.executable, "-X", "utf8", "-W", "error", example, *arguments]
    return subprocess.run(command, env=clean | env, capture_output=True, encoding="utf-8", timeout=120)


@pytest.fixture(scope="module")
def answer(server: Any) -> str:
    request = {
        "inputs": "The old man looked at the sea and",
        "parameters": {"max_new_tokens": 40, "temperature": 0.8, "seed": 1},
    }
    return str(httpx.post(f"{server.url}/generate", json=request, timeout=60).raise_for_status().json()["generated_text"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_the_same_text_at_once_and_streamed(example: Path, server: Any, answer: str) -> None:
    result = run(example, server.url)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    # Universal newlines: whatever line ends the text holds, both sides count them alike.
    shown, text = " ".join(result.stdout.split()), " ".join(answer.split())
    assert text
    assert shown.count(text) == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_takes_the_address_from_the_environment(example: Path, server: Any) -> None:
    result = run(example, GPT2_URL=server.url)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_takes_the_key_from_the_environment(example: Path, start_server: Any) -> None:
    server = start_server(api_keys="a-key-for-the-examples")
    assert run(example, server.url, GPT2_API_KEY="a-key-for-the-examples").returncode == 0
    assert run(example, server.url, GPT2_API_KEY="another-key-than-that").returncode == 1


def test_the_plain_example_shows_the_services_error_instead_of_a_traceback(start_server: Any) -> None:
    server = start_server()
    server.service.generator.client._door.close()  # what every request gets from then on is a 503
    (generate,) = (example for example in EXAMPLES if example.name == "generate.py")
    result = run(generate, server.url)
    assert result.returncode == 1
    assert result.stderr == "503: the service is shutting down\n"
