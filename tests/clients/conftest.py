"""Real servers for real clients: `gpt2 serve` as a program of the service's environment, known to the tests by its address alone.

The clients need other releases of some packages than the service's own tests, so they live in an environment of their own,
`.venv-clients` (`make test-clients`).
"""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
DEFAULT_MODEL = ROOT / "model" / "default"
Json = dict[str, Any]

# Who speaks is plain text here, so that any vocabulary has words for it; the end token ends each turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
# What clients would look for beyond this machine: an account, a hub, a price list, an address of somebody's.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "HF_INFERENCE_ENDPOINT"):
    os.environ.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--service-python", default=str(ROOT / ".venv/bin/python"), help="The Python that has the service installed.")


class Service:
    """A server's address, and plain requests whose answers the clients' are held against."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url = url
        self.v1 = f"{url}/v1"
        self._http = http

    def post(self, path: str, body: Json) -> Json:
        response = self._http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def generated(self, inputs: str, **parameters: object) -> str:
        return self.post("/generate", {"inputs": inputs, "parameters": parameters})["generated_text"]

    def completed(self, prompt: str, **fields: object) -> str:
        return self.post("/v1/completions", {"prompt": prompt, **fields})["choices"][0]["text"]

    def replied(self, text: str, **fields: object) -> str:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, **fields})["choices"][0]["message"]["content"]


@contextmanager
def serving(python: str, model: Path, **settings: object) -> Iterator[Service]:
    """Run `gpt2 serve` until the block ends."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    chosen = {f"GPT2_{name.upper()}": str(value) for name, value in settings.items()}
    env = clean | {"GPT2_MODEL": str(model), "GPT2_PORT": "0", "GPT2_DEVICE": "cpu", "GPT2_LOG_FORMAT": "console"} | chosen
    with subprocess.Popen([python, "-m", "app", "serve"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = _address(process)
            threading.Thread(target=process.stderr.read, daemon=True).start()  # or its log would fill the pipe and stop it
            with httpx.Client(base_url=url, timeout=120) as http:
                yield Service(url, http)
        finally:
            process.terminate()
            process.wait()


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "ready at " in line:
            return line.split("ready at ")[1].split()[0]
    pytest.fail("the server did not come up:\n" + "".join(said))


StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def start_service(pytestconfig: pytest.Config) -> Iterator[StartService]:
    """Start a server on a checkpoint with the settings given; it stops with the session."""
    with ExitStack() as services:

        def start(model: Path, **settings: object) -> Service:
            return services.enter_context(serving(pytestconfig.getoption("--service-python"), model, **settings))

        yield start


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that comes with the service, with a chat template beside it."""
    directory = tmp_path_factory.mktemp("checkpoint") / "talking-gpt2"
    directory.mkdir()
    for file in DEFAULT_MODEL.iterdir():
        (directory / file.name).symlink_to(file)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    tokenizer_config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "model_max_length": 512}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


@pytest.fixture(scope="session")
def service(start_service: StartService, checkpoint: Path) -> Service:
    """One server for nearly all tests: in float32, so that its log-probabilities are comparable."""
    return start_service(checkpoint, dtype="float32")
