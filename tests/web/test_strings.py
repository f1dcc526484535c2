"""The table of the page's texts: whole in every language, with no key that nobody uses, and none used that it does not have."""

import re
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from app.settings import WEB

Table = dict[str, dict[str, str]]
LANGUAGES = {"en", "zh"}
PREFIXES = {path.stem for path in WEB.glob("page/strings/*.js")}
SOURCES = [path for path in (*WEB.glob("page/**/*.js"), WEB / "index.html") if path.parent.name != "strings"]
KEY = rf"(?:{'|'.join(PREFIXES)})\.\w[\w.]*"
# As t("write.go") and "data-t": "write.go" name it, and as a constant or a list does.
LITERAL = re.compile(rf'"({KEY})"')
# `write.finish_${reason}` may become any key that begins so.
STEM = re.compile(rf"`((?:{'|'.join(PREFIXES)})\.[\w.]*)\$\{{")
PLACE = re.compile(r"\{(\w+)\}")
CHINESE = re.compile("[\u4e00-\u9fff]")
IMPORT = """
const [names, done] = arguments;
const tables = names.map((name) => import(`/page/strings/${name}.js`).then((module) => [name, module[name]]));
Promise.all(tables).then((all) => done(Object.fromEntries(all)), (error) => done(String(error)));
"""


@pytest.fixture(scope="module")
def tables(browser: Chrome, server: Any) -> dict[str, Table]:
    """By file, as the browser reads them."""
    browser.get(server.url)
    found = browser.execute_async_script(IMPORT, sorted(PREFIXES))
    browser.get("about:blank")
    assert isinstance(found, dict), found
    return found


@pytest.fixture(scope="module")
def table(tables: dict[str, Table]) -> Table:
    return {key: texts for part in tables.values() for key, texts in part.items()}


def named(pattern: re.Pattern[str]) -> set[str]:
    return {found for path in SOURCES for found in pattern.findall(path.read_text())}


def test_each_file_has_the_keys_of_its_part(tables: dict[str, Table]) -> None:
    assert len(tables["common"]) > 10
    assert {key for name, part in tables.items() for key in part if not key.startswith(f"{name}.")} == set()


def test_each_text_is_there_in_every_language_with_the_same_values(table: Table) -> None:
    for key, texts in table.items():
        assert set(texts) == LANGUAGES, key
        assert all(text.strip() for text in texts.values()), key
        assert len({tuple(sorted(set(PLACE.findall(text)))) for text in texts.values()}) == 1, key
        assert not CHINESE.search(texts["en"]), key


def test_each_key_that_is_named_is_in_the_table(table: Table) -> None:
    assert len(named(LITERAL)) > 10
    assert sorted(named(LITERAL) - table.keys()) == []
    assert sorted(stem for stem in named(STEM) if not any(key.startswith(stem) for key in table)) == []


def test_each_key_of_the_table_is_used(table: Table) -> None:
    used, stems = named(LITERAL), tuple(named(STEM))
    assert sorted(key for key in table if key not in used and not key.startswith(stems)) == []


def written(path: Path) -> list[str]:
    """The Chinese of a file outside of the table."""
    return CHINESE.findall(path.read_text())


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".js"], ids=lambda path: path.name)
def test_no_chinese_stands_outside_of_the_table(path: Path) -> None:
    assert written(path) == []
