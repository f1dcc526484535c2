"""The OpenAPI document is true: schemathesis, which makes requests out of it, right ones and wrong ones, finds nothing."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

HOOKS = Path(__file__).with_name("openapi_hooks.py")
SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"


KEY = "a-key-for-what-is-made-up"


@pytest.fixture
def run_schemathesis(tmp_path):
    """Try a server by its document; the output and the exit status."""

    def run(server, num_examples, *options):
        command = [
            SCHEMATHESIS, "run", f"{server.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--mode", "all",
            "--checks", "all", "--max-examples", str(num_examples), "--generation-deterministic", "--continue-on-failure",
            "--no-color", *options,
        ]  # fmt: skip
        environment = os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)

    return run


@pytest.mark.row("route.openapi")
def test_what_the_document_says_is_so(start_server, run_schemathesis):
    done = run_schemathesis(start_server(chat_template="plain", max_running=8), 20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_document_says_of_keys_is_so(start_server, run_schemathesis):
    """Among others that no operation with `security` answers without a key, or with one that was made up."""
    server = start_server(chat_template="plain", max_running=8, api_keys=KEY)
    done = run_schemathesis(server, 2, "--header", f"Authorization: Bearer {KEY}")
    assert done.returncode == 0, done.stdout + done.stderr
