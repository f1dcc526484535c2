"""The OpenAPI document is true: schemathesis, which makes requests out of it, right ones and wrong ones, finds nothing."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

HOOKS = Path(__file__).with_name("openapi_hooks.py")
SCHEMATHESIS = Path(sysconfig.get_path("scripts")) / "schemathesis"


@pytest.mark.row("route.openapi")
def test_what_the_document_says_is_so(start_server, tmp_path):
    server = start_server(chat_template="plain", max_running=8)
    command = [
        SCHEMATHESIS, "run", f"{server.url}/openapi.json", "--phases", "examples,coverage,fuzzing", "--mode", "all",
        "--checks", "all", "--max-examples", "20", "--generation-deterministic", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    environment = os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
