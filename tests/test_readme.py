"""README.md and docs/architecture.md are true: their commands run, their tables match the code, their links lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli import build_parser
from app.schemas.native import NOT_YET
from app.settings import DEFAULT_MODEL, Settings
from benchmarks.compare_report import everybody, measured_on, of_targets, readme_block, results, side_by_side, summary
from tests.conftest import RunningServer, running_server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
COMPARISON = (ROOT / "docs/comparison.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


CURLS = [block for block in blocks("bash") if block.startswith("curl")]
PYTHONS = blocks("python")


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[RunningServer]:
    """One that chats by the template that the README names."""
    settings = Settings(model=str(tiny_checkpoint), port=0, device="cpu", chat_template="plain", _env_file=None)
    with running_server(settings) as running:
        yield running


def run(*command: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPT2_")}
    result = subprocess.run(command, env=clean, capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def text_of(answer: dict[str, Any]) -> str:
    """The text of a complete answer in either dialect."""
    if "choices" not in answer:
        text = answer["generated_text"]
    else:
        (choice,) = answer["choices"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    assert isinstance(text, str)
    return text


def test_there_are_commands_to_run() -> None:
    assert len(CURLS) == 6
    assert len(PYTHONS) == 1
    assert all(ADDRESS in block for block in CURLS + PYTHONS)


def asked(command: str, server: Any) -> str:
    """What the server answers to a command of the page."""
    return run("bash", "-euc", command.replace("curl", "curl --silent --show-error --fail", 1).replace(ADDRESS, server.url))


def answer_to(route: str, server: Any) -> str:
    (command,) = (command for command in CURLS if route in command)
    return asked(command, server)


def test_the_curl_command_that_asks_for_scores_gets_them(server: Any) -> None:
    answer = json.loads(answer_to("/v1/score", server))
    assert [data["logprob"] < 0 for data in answer["data"]] == [True] * 3


def test_the_curl_command_that_looks_inside_gets_the_pattern_and_both_losses(server: Any) -> None:
    answer = json.loads(answer_to("/v1/inspect", server))
    assert list(answer["run"]["activations"]) == ["blocks.0.attn.hook_pattern"]
    assert answer["run"]["loss"] != answer["ablated"]["loss"]


@pytest.mark.parametrize(
    "command",
    [command for command in CURLS if not re.search("/v1/(score|inspect)", command)],
    ids=lambda command: re.findall(r"8000(\S+)", command)[0],
)
def test_a_curl_command_answers_with_text(command: str, server: Any) -> None:
    output = asked(command, server)
    if '"stream": true' not in command:
        assert text_of(json.loads(output))
        return
    events = [json.loads(line.removeprefix("data: ")) for line in output.splitlines() if line]
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["token"]["text"] for event in events) == text_of(events[-1]) != ""


@pytest.mark.parametrize("program", PYTHONS)
def test_a_python_program_prints_text(program: str, server: Any) -> None:
    assert run(sys.executable, "-X", "utf8", "-W", "error", "-c", program.replace(ADDRESS, server.url)).strip()


def settings_table() -> str:
    """What the README says of the settings: one row a field."""
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = (
            "the default checkpoint"
            if field.default == str(DEFAULT_MODEL)
            else f"`{field.default}`"
            if field.default not in ((), "")
            else "none"
        )
        rows.append(f"| `GPT2_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_the_settings_are_those_of_the_code() -> None:
    (table,) = re.findall(r"<!-- settings: .*? -->\n(.*?)<!-- /settings -->", README, flags=re.DOTALL)
    assert table == settings_table()


def test_the_readme_has_the_comparison_of_each_machine() -> None:
    blocks = re.findall(r"^<!-- comparison .*?^<!-- /comparison -->", README, flags=re.MULTILINE | re.DOTALL)
    assert sorted(blocks) == sorted(readme_block(name, document) for name, document in results().items())


@pytest.mark.parametrize("name", results())
def test_the_comparison_on_a_machine_is_what_the_benchmark_measured(name: str) -> None:
    document, result = results()[name], results()[name]["result"]
    (section,) = re.findall(rf"^## On {name}\n(.*?)(?=^## |\Z)", COMPARISON, flags=re.MULTILINE | re.DOTALL)
    for part in (measured_on(document), summary(result["rows"]), of_targets(result["targets"]), everybody(result["rows"])):
        assert part in section


def test_the_machines_stand_side_by_side() -> None:
    assert side_by_side(results()) in COMPARISON


def test_the_routes_are_those_of_the_service(server: Any) -> None:
    served = {
        f"{method.upper()} {path}"
        for path, methods in httpx.get(f"{server.url}/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert set(re.findall(r"`((?:GET|POST) /\S*)`", README)) == served | {"GET /", "GET /docs"}


def test_the_fields_that_are_not_there_yet_are_named() -> None:
    (sentence,) = re.findall(r"^Known by name, but refused.*?;", README, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", sentence)) == NOT_YET.keys()


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README + ARCHITECTURE))
    assert named - {"lint"} == {"serve", "test", "check", "install-train", "wheel", "image", "release"} < targets


def test_every_module_has_its_line_in_the_architecture() -> None:
    """One row a module, in the tables; no row for a module that is not there."""
    modules = {
        str(path.relative_to(ROOT))
        for package in ("app", "model")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    named = re.findall(r"^\| `(\S+\.py)` \|", ARCHITECTURE, flags=re.MULTILINE)
    assert sorted(named) == sorted(modules)
    assert set(re.findall(r"\b(?:app|model)/[\w/]+\.py", README + ARCHITECTURE)) <= modules


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/architecture.md",
        "docs/native.md",
        "docs/comparison.md",
        "docs/training.md",
        "docs/recipes.md",
        "docs/transformer.md",
        "docs/api.md",
        "docs/migrate.md",
        "docs/tracing.md",
        "docs/operate.md",
        "docs/scale.md",
        "docs/proxy.md",
        "docs/kubernetes.md",
        "docs/ray.md",
        "docs/images.md",
        "docs/bill.md",
        "docs/compatibility.md",
        "SECURITY.md",
    ],
)
def test_every_link_inside_the_repository_leads_somewhere(document: str) -> None:
    path = ROOT / document
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "docs/training.md", "docs/recipes.md", "docs/bench.md"])
def test_every_command_is_one_that_the_command_line_takes(document: str) -> None:
    """Only parsed: what the commands do has tests of its own."""
    lines = re.findall(r"^ {4}(?:\.venv/bin/)?gpt2 (.+)$", (ROOT / document).read_text(), flags=re.MULTILINE)
    assert lines
    for line in lines:
        build_parser().parse_args(shlex.split(line, comments=True))
