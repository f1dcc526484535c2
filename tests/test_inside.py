"""docs/inside.md says what the default checkpoint computes: its tables are those of the kept figures, and these are still right."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app import cli
from app.commands.inspect_ablations import read_ablation
from app.settings import Settings
from benchmarks import inside
from benchmarks.inside_tables import ABLATIONS, with_figures
from benchmarks.machine import ROOT
from tests.conftest import RunningServer, running_server

ADDRESS = "http://127.0.0.1:8000"
PAGE = (ROOT / "docs" / "inside.md").read_text()


def test_the_page_shows_the_figures_that_were_kept() -> None:
    assert with_figures(PAGE, inside.kept()) == PAGE


def test_the_page_names_each_text_and_each_ablation() -> None:
    assert f'gpt2 inspect "{inside.SEA}"' in PAGE
    assert f'gpt2 inspect "{inside.LETTERS}"' in PAGE
    assert all(f"`{form}`" in PAGE for form in ABLATIONS)


def test_its_commands_name_the_heads_that_were_found() -> None:
    best = inside.kept()["heads"]["best"]["induction"]
    assert set(re.findall(r"--ablate head:(\d+)\.(\d+)=zero|--map (\d+)\.(\d+)", PAGE)) == {
        (str(best[0]), str(best[1]), "", ""),
        ("", "", str(best[0]), str(best[1])),
    }


@pytest.mark.parametrize("name", ["inside_stream.png", "inside_induction.png"])
def test_its_pictures_are_there_and_small(name: str) -> None:
    assert f"({name})" in PAGE
    assert 10_000 < (ROOT / "docs" / name).stat().st_size < 150_000


def numbers(figures: Any, at: str = "") -> dict[str, float]:
    """All numbers of nested figures by their places; texts may turn on the last bit of a number."""
    if isinstance(figures, dict):
        return {key: value for name, part in figures.items() for key, value in numbers(part, f"{at}.{name}").items()}
    if isinstance(figures, list):
        return {key: value for i, part in enumerate(figures) for key, value in numbers(part, f"{at}[{i}]").items()}
    return {} if figures is None or isinstance(figures, str) else {at: figures}


def test_the_default_checkpoint_still_computes_them() -> None:
    """But for the losses without heads, which take longer: `python -m benchmarks.inside` measures all of them."""
    kept, found = inside.kept(), inside.measure(with_losses=False)
    kept["heads"].pop("losses")
    found["heads"].pop("losses")
    expected = numbers(kept)
    assert len(expected) > 350
    assert numbers(found) == pytest.approx(expected, rel=2e-3, abs=2e-3)


@pytest.fixture(scope="module")
def default_server() -> Iterator[RunningServer]:
    with running_server(Settings(port=0, device="cpu", _env_file=None)) as running:
        yield running


def curls() -> list[str]:
    """The commands of the page, each with the lines that it goes on in."""
    return re.findall(r"^ *(curl .*(?:\n(?: {4}|  -).*)*)", PAGE, flags=re.MULTILINE)


def test_a_server_answers_each_curl_command_of_the_page(default_server: RunningServer) -> None:
    calls = curls()
    assert len(calls) == PAGE.count("curl ") >= 2
    for call in calls:
        command = call.replace("curl", "curl --silent --show-error --fail", 1).replace(ADDRESS, default_server.url)
        output = subprocess.run(["bash", "-euc", command], capture_output=True, timeout=300, check=True).stdout
        answer = json.loads(output)
        assert [token["text"] for token in answer["tokens"]] == inside.kept()["sea"]["tokens"]
        assert answer["run"]["loss"] == pytest.approx(inside.kept()["sea"]["loss"], abs=1e-3)


def test_the_python_of_the_page_prints_the_norms_of_its_table(default_server: RunningServer) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    program = program.replace(ADDRESS, default_server.url)
    command = [sys.executable, "-W", "error", "-c", program]
    printed = json.loads(subprocess.run(command, capture_output=True, timeout=300, check=True).stdout)
    assert [layer[-1] for layer in printed] == pytest.approx(inside.kept()["sea"]["stream"]["resid_post"], rel=2e-3)


def test_its_gpt2_commands_are_ones_that_the_command_takes() -> None:
    commands = re.findall(r"^ *(gpt2 inspect .*)", PAGE, flags=re.MULTILINE)
    assert len(commands) == PAGE.count("gpt2 inspect ")
    for command in commands:
        options = cli.build_parser().parse_args(shlex.split(command.replace("FORM", "mlp=zero"))[1:])
        assert all(read_ablation(form) for form in options.ablate)
