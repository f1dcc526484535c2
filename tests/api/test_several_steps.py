"""A runner that takes several steps a call: the same bytes as step by step, fewer writes."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.settings import Settings
from model.batch import Capabilities, ForwardBatch, Runner
from tests.conftest import RunningServer, running_server

NUM_STEPS = 4


class InSeveralSteps:
    """The real runner, which says that several steps a call pay."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:  # whatever the runner has
        return getattr(self._runner, name)

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._runner.capabilities, num_steps=NUM_STEPS)

    def launch(self, batch: ForwardBatch) -> Any:
        return self._runner.launch(batch)


@pytest.fixture(scope="module")
def servers(chatml_checkpoint) -> Iterator[tuple[RunningServer, RunningServer]]:
    """One that goes step by step, and one that does not."""
    settings = Settings(model=str(chatml_checkpoint), port=0, device="cpu", max_running=8, _env_file=None)
    with running_server(settings) as single, running_server(settings, InSeveralSteps) as several:
        yield single, several


PARAMETERS = {
    "greedy": {"seed": 5},
    "bytes that are no UTF-8": {"temperature": 2.0, "seed": 1},
    "a stop string": {"temperature": 2.0, "seed": 1, "stop": ["e", "\ufffd\ufffd"]},
    "a stop string that never comes": {"temperature": 2.0, "seed": 2, "stop": ["\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\x00"]},
    "an end token": {"logit_bias": {"499": 6}, "temperature": 2.0, "seed": 3},
    "samples": {"n": 3, "temperature": 2.0, "seed": 4},
}
BODIES = {
    "/generate_stream": lambda fields: {"inputs": "Café 日本", "parameters": {"max_new_tokens": 30, **fields}},
    "/generate": lambda fields: {"inputs": "Café 日本", "parameters": {"max_new_tokens": 30, "details": True, **fields}},
    "/v1/completions": lambda fields: {"prompt": "Café 日本", "max_tokens": 30, "stream": True, "logprobs": 2, **fields},
    "/v1/chat/completions": lambda fields: {
        "messages": [{"role": "user", "content": "Café 日本"}],
        "max_tokens": 30,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    },
}


@pytest.mark.parametrize("fields", PARAMETERS.values(), ids=PARAMETERS.keys())
@pytest.mark.parametrize("path", BODIES)
def test_the_bytes_of_an_answer_are_those_of_single_steps(servers, path, fields):
    single, several = (answered(server, path, BODIES[path](fields)) for server in servers)
    assert single == several


def answered(server: RunningServer, path: str, body: object) -> list[bytes]:
    """The events, but for what tells one request from another, each sample's in order: whose comes first is the engine's affair."""
    response = httpx.post(server.url + path, json=body, timeout=60)
    assert response.status_code == 200, response.text
    content = re.sub(rb'"(id":"\w+-\w+|created":\d+)"?', b"", response.content)
    events = content.split(b"\n\n")
    samples = [re.search(rb'"sample":(\d)|"choices":\[{"index":(\d)', event) for event in events]
    order = sorted(range(len(events)), key=lambda i: samples[i][0] if samples[i] else b"")
    return [events[i] for i in order]


def test_tokens_that_come_together_are_written_together(servers):
    for server, most in zip(servers, (9, 1 + 8 // NUM_STEPS), strict=True):
        with httpx.stream(
            "POST", server.url + "/generate_stream", json={"inputs": "a", "parameters": {"max_new_tokens": 9}}, timeout=60
        ) as response:
            writes = list(response.stream)
        assert len(writes) <= most, "a reader who is late finds more at once, never less"
        assert b"".join(writes).count(b"data: ") == 9
