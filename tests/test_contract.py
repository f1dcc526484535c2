"""Every row of docs/api.md is named by a test, every row that a test names is there, and every field and route has one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from app.api import chat, completions, generate, inspect, operations, score, web
from app.schemas.chat import ChatRequest
from app.schemas.inspection import KINDS, InspectRequest
from app.schemas.native import DetokenizeRequest, GenerateParameters, GenerateRequest, TokenizeRequest
from app.schemas.openai import CompletionRequest, ScoreRequest

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/api.md").read_text()
ROWS = re.findall(r"^\| `([a-z0-9_]+\.(?!hook_)[a-z0-9_]+)` \|", DOCUMENT, flags=re.MULTILINE)  # hooks have a table of their own
BODIES = [
    ChatRequest, CompletionRequest, DetokenizeRequest, GenerateParameters, GenerateRequest, InspectRequest, ScoreRequest,
    TokenizeRequest, *KINDS.values(),
]  # fmt: skip


def rows_named_in(path: Path) -> Iterator[str]:
    """The arguments of every `pytest.mark.row(...)`, whether it decorates a test or marks one case of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
            yield from (ast.literal_eval(row) for row in node.args)


NAMED = {row for path in (ROOT / "tests").rglob("test_*.py") for row in rows_named_in(path)}


def test_there_are_rows() -> None:
    assert len(ROWS) > 150


def test_no_two_rows_have_the_same_id() -> None:
    assert sorted(set(ROWS)) == sorted(ROWS)


def test_every_row_is_named_by_a_test() -> None:
    assert sorted(set(ROWS) - NAMED) == []


def test_every_row_that_a_test_names_exists() -> None:
    assert sorted(NAMED - set(ROWS)) == []


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_every_field_of_a_body_has_a_row(body: type[BaseModel]) -> None:
    named = {
        name
        for cell in re.findall(r"^\| `[a-z0-9_.]+` \| ([^|]*) \|", DOCUMENT, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)", cell)
    }
    assert sorted(set(body.model_fields) - named - {"parameters"}) == []


MODULES = [chat, completions, generate, inspect, operations, score, web]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_route_has_a_row(module: ModuleType) -> None:
    documented = set(re.findall(r"^\| `route\.\w+` \| `(\w+ [^`]+)`", DOCUMENT, flags=re.MULTILINE))
    routes = [route for route in module.router.routes if not route.path.startswith(("/docs/", "/page/"))]  # a page's own files
    written = {f"{method} {re.sub('{.*}', '{id}', route.path)}" for route in routes for method in route.methods - {"HEAD"}}
    assert written
    assert sorted(written - documented) == []
