"""Clients for JavaScript: openai, @huggingface/inference, the AI SDK and readers of event streams, on node's own test runner.

Each of node's tests is one here, by its name; node runs them all at once.
"""

import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

NODE = Path(__file__).parent / "node"
FILES = sorted(NODE.glob("*.test.mjs"))
NAMES = [name for file in FILES for name in re.findall(r'^test\("(.+?)"', file.read_text(), flags=re.MULTILINE)]


@pytest.fixture(scope="session")
def outcomes(service):
    """Of each test by name: None if it passed, else what node says of it."""
    command = ["node", "--test", "--test-reporter=junit", *(str(file) for file in FILES)]
    result = subprocess.run(
        command, cwd=NODE, env=os.environ | {"GPT2_URL": service.url}, capture_output=True, encoding="utf-8", timeout=240
    )
    assert result.stdout, result.stderr
    cases = ET.fromstring(result.stdout).iter("testcase")
    return {case.get("name"): next((failure.text for failure in case.iter("failure")), None) for case in cases}


def test_node_ran_every_test_and_no_other(outcomes):
    assert sorted(outcomes) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_in_node(name, outcomes):
    assert outcomes[name] is None, outcomes[name]
