"""The files that browsers get: what is served, as what, under which policy; and what stands in them."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.web import FILES
from app.settings import WEB

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
OURS = sorted(path for path in WEB.rglob("*") if path.suffix in TYPES and path.parent.name != "swagger")
SCRIPTS = [path for path in OURS if path.suffix == ".js"]
STYLES = [path for path in OURS if path.suffix == ".css"]
PAGES = [path for path in OURS if path.suffix == ".html"]
IMPORTS = re.compile(r'^(?:import|export)\s[^"=(]*"([^"]+)";', flags=re.MULTILINE)
STATED = "http://www.w3.org/"  # names of XML, which nobody fetches


def name(path: Path) -> str:
    return path.relative_to(WEB).as_posix()


def without_comments(path: Path) -> str:
    """Near enough: no string of ours has what looks like the beginning of a comment behind a space."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    return re.sub(r"(^|\s)//.*", r"\1", text) if path.suffix == ".js" else text


# ---- how they are served


@pytest.mark.row("route.page", "route.client", "http.web_files")
@pytest.mark.parametrize("address", FILES)
def test_each_file_comes_with_its_type_its_policy_and_a_tag_that_saves_sending_it_again(client: Any, address: str) -> None:
    response = client.get(address)
    suffix = Path(address).suffix or ".html"
    assert (response.status_code, response.headers["content-type"]) == (200, f"{TYPES[suffix]}; charset=utf-8")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    tag = response.headers["etag"]
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = client.get(address, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
    assert client.get(address, headers={"if-none-match": '"other"'}).content == response.content
    assert client.head(address, headers={"if-none-match": tag}).status_code == 304


def test_every_file_of_the_page_has_an_address_and_no_two_have_the_same_tag(client: Any) -> None:
    for path in OURS:
        if name(path).startswith("page/"):
            assert client.get(f"/{name(path)}").content == path.read_bytes()
    assert client.get("/client.js").content == (WEB / "client.js").read_bytes()
    assert client.get("/").content == (WEB / "index.html").read_bytes()
    assert len({client.head(address).headers["etag"] for address in FILES}) == len(FILES)


@pytest.mark.parametrize(
    "path",
    ["/page", "/page/", "/page/nowhere.js", "/page/main.js/", "/page/../main.py", "/page/%2e%2e/settings.py", "/page//main.js"],
)
def test_what_is_not_there_is_a_404_as_everywhere(server: Any, path: str) -> None:
    response = httpx.request("GET", httpx.URL(server.url).copy_with(raw_path=path.encode()))
    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")


def test_a_page_of_a_named_origin_may_load_the_client(start_server: Any) -> None:
    origin = "https://a.example"
    response = httpx.get(f"{start_server(cors_origins=origin).url}/client.js", headers={"origin": origin})
    assert response.headers["access-control-allow-origin"] == origin


# ---- what stands in them


class Attributes(HTMLParser):
    """The names and values of all attributes, and the texts within scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.inline: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(attribute, value or "") for attribute, value in attrs]
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_a_page_has_nothing_inline_and_names_files_of_this_service_alone(path: Path) -> None:
    found = Attributes(path.read_text())
    assert found.inline == []
    assert [attribute for attribute, _ in found.attributes if attribute == "style" or attribute.startswith("on")] == []
    addresses = [value for attribute, value in found.attributes if attribute in ("src", "href", "action")]
    assert addresses
    assert [value for value in addresses if re.match(r"/|\w+:", value) and not value.startswith("data:")] == []


@pytest.mark.parametrize("path", [*SCRIPTS, *STYLES], ids=name)
def test_no_script_and_no_style_names_an_address_elsewhere(path: Path) -> None:
    addresses = re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"'`)]*""", without_comments(path))
    assert [address for address in addresses if not address.startswith(STATED)] == []
    assert "@import url(" not in without_comments(path)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_no_script_writes_markup_or_runs_a_text(path: Path) -> None:
    told = r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|new Function|DOMParser)\b|setAttribute\(\"style\""
    assert re.findall(told, without_comments(path)) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_every_module_that_a_script_names_is_there(path: Path) -> None:
    for module in IMPORTS.findall(without_comments(path)):
        assert module.startswith("."), "no bare names: nothing resolves them"
        assert (path.parent / module).resolve().is_file(), module


def selectors(path: Path) -> list[str]:
    """Each by itself; a comma within parentheses parts none. What @keyframes has are no selectors."""
    text = re.sub(r"@keyframes[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", without_comments(path))
    heads = [head.strip() for head in re.findall(r"([^{};]+)\{", text)]
    found = [""]
    for char in ",".join(head for head in heads if not head.startswith("@")):
        if char == "," and found[-1].count("(") == found[-1].count(")"):
            found.append("")
        else:
            found[-1] += char
    return [selector.strip() for selector in found]


def names_of(selector: str) -> set[str]:
    return set(re.findall(r"[.#][a-zA-Z][\w-]*", selector))


def view_of(path: Path) -> str:
    return name(path).split("/")[1]  # "write", "xray" with its zoom; "theme.css"


@pytest.mark.parametrize("path", [path for path in STYLES if path.name != "theme.css"], ids=name)
def test_the_styles_of_a_view_reach_no_other_view(path: Path) -> None:
    """Each selector has a class or an id, in itself or about it, that no selector of another view has, nor of the shell."""
    others = {
        found
        for other in STYLES
        if view_of(other) != view_of(path)
        for selector in selectors(other)
        for found in names_of(selector)
    }
    assert len(selectors(path)) > 20
    assert [selector for selector in selectors(path) if not names_of(selector) - others and not selector.startswith(":root")] == []
