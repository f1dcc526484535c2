"""client.js in Node, on Node's own test runner; each of its tests is one here, by its name."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from app.settings import WEB, Settings
from tests.conftest import running_server

NODE = Path(__file__).parent / "node"
FILES = sorted(NODE.glob("*.test.mjs"))
KEY = "a-key-for-the-client"
TITLES = re.compile(r'^ *test\(["`](.+?)["`],', flags=re.MULTILINE)
NAMES = [
    name.replace("${name}", ending)
    for file in FILES
    for name in TITLES.findall(file.read_text())
    for ending in (("LF", "CRLF", "CR") if "${name}" in name else ("",))
]


def node_version() -> int:
    node = shutil.which("node")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60).stdout if node else "v0"
    return int(told.removeprefix("v").split(".")[0])


@pytest.fixture(scope="module")
def outcomes(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Of each test by name: None if it passed, else what Node says of it."""
    if node_version() < 20:  # its test runner writes JUnit's form from then on; the client runs from 18 on
        pytest.skip("Node 20 or newer is missing")
    copy = shutil.copy(WEB / "client.js", tmp_path_factory.mktemp("client") / "client.mjs")
    settings = Settings(model=str(tiny_checkpoint), port=0, device="cpu", chat_template="plain", api_keys=KEY, _env_file=None)
    with running_server(settings) as server:
        environment = os.environ | {"GPT2_URL": server.url, "GPT2_KEY": KEY, "GPT2_CLIENT": str(copy)}
        command = ["node", "--test", "--test-reporter=junit", *map(str, FILES)]
        result = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=240)
    assert result.stdout, result.stderr
    cases = ET.fromstring(result.stdout).iter("testcase")
    return {str(case.get("name")): next((failure.text for failure in case.iter("failure")), None) for case in cases}


def test_node_ran_every_test_and_no_other(outcomes: dict[str, str | None]) -> None:
    assert sorted(outcomes) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_in_node(name: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[name] is None, outcomes[name]
