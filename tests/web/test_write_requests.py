"""The request as code is the request that the button sends: each is run here."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import WEB
from tests.web.browsing import Page, answer
from tests.web.writing import SAMPLING, opened, write

PROMPT = 'It\'s "the" old\\man 🙂\nand $HOME `x`'
SEED = 2**64 - 3


def snippet(page: Page, language: str) -> str:
    page.click(language)
    return page.text("snippet")


def ready(page: Page, url: str) -> None:
    opened(page, url)
    page.set(prompt=PROMPT, length=10, seed=SEED, **{"field-stop": "zz\\n", "field-top_k": 40})
    page.click("more")
    page.click("field-ignore_eos")
    page.click("request")


def expected(url: str) -> str:
    fields = {"max_new_tokens": 10, "seed": SEED, "top_k": 40, "stop": ["zz\n"], "ignore_eos": True}
    return answer(url, PROMPT, **fields, **SAMPLING)


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_sends_what_the_button_sends(page: Page, server: Any) -> None:
    ready(page, server.url)
    command = snippet(page, "curl")
    body = json.loads(shlex.split(command.replace("\\\n", " "))[-1])
    write(page)
    sent = page.browser.execute_script("return window.bodies.at(-1)")
    assert body == json.loads(sent)
    assert body["parameters"]["seed"] == SEED
    events = [json.loads(line[6:]) for line in run("bash", "-c", command).splitlines() if line.startswith("data: ")]
    assert events[-1]["generated_text"] == expected(server.url) == page.text("output")


def test_the_python_program_prints_the_same_text(page: Page, server: Any) -> None:
    ready(page, server.url)
    assert run(sys.executable, "-c", snippet(page, "python")) == expected(server.url)


def test_the_javascript_program_prints_the_same_text(page: Page, server: Any, tmp_path: Path) -> None:
    if not shutil.which("node"):
        pytest.skip("Node is missing")
    ready(page, server.url)
    program = snippet(page, "javascript")
    address = f'"{server.url}/client.js"'
    assert address in program
    shutil.copy(WEB / "client.js", tmp_path / "client.mjs")  # Node loads no module from the network
    (tmp_path / "program.mjs").write_text(program.replace(address, '"./client.mjs"'))
    assert run("node", "program.mjs", cwd=tmp_path) == expected(server.url)


def test_the_code_follows_every_change(page: Page, server: Any) -> None:
    ready(page, server.url)
    assert '"top_k":40' in snippet(page, "curl")
    page.set(prompt="Another", **{"field-top_k": 7})
    assert '"inputs":"Another"' in page.text("snippet")
    assert '"top_k":7' in page.text("snippet")
    page.click("reset")
    assert "top_k" not in page.text("snippet")


@pytest.mark.parametrize(
    ("language", "name"),
    [("curl", "$GPT2_API_KEY"), ("python", "os.environ['GPT2_API_KEY']"), ("javascript", "process.env.GPT2_API_KEY")],
)
def test_the_code_names_the_key_and_does_not_tell_it(
    page: Page, start_server: Any, monkeypatch: pytest.MonkeyPatch, language: str, name: str
) -> None:
    key = "a-key-for-the-code"
    server = start_server(api_keys=key)
    page.open(server.url)
    page.until(lambda: page.shows("key"))
    page.browser.execute_script("sessionStorage.setItem('key', arguments[0])", key)
    page.open(f"{server.url}/?again")
    page.until(lambda: page.text("model"))
    page.set(prompt="The sea", length=10, seed=1)
    page.click("request")
    code = snippet(page, language)
    assert name in code
    assert key not in code
    monkeypatch.setenv("GPT2_API_KEY", key)
    assert os.environ["GPT2_API_KEY"] == key
    if language == "python":
        assert run(sys.executable, "-c", code) == answer_with(server.url, key)


def answer_with(url: str, key: str) -> str:
    body = {"inputs": "The sea", "parameters": {"max_new_tokens": 10, "seed": 1, **SAMPLING}}
    response = httpx.post(f"{url}/generate", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
    return str(response.raise_for_status().json()["generated_text"])
