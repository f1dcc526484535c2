"""Names on the hub, against a small hub of our own on loopback. Each download runs in a process of its own: the library reads
`HF_ENDPOINT` when it is imported."""

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model.checkpoint import CheckpointError, load_tokenizer, resolve_model
from model.network_files import load_model

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny-gpt2"
RESOLVE = """
import sys
from model.hub import HubError, download
try:
    print(download(sys.argv[1]))
except HubError as error:
    sys.exit(str(error))
"""


class Hub(ThreadingHTTPServer):
    """One repository, as the hub's API shows it; remembers what was fetched."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.directory = directory
        self.fetched: set[str] = set()
        self.refusal: str | None = None  # the hub's error code for every request, where there is one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.refusal or REPOSITORY not in path:
            self._send(401, b"{}", {"X-Error-Code": self.server.refusal or "RepoNotFound"})
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._send(
                200,
                json.dumps(
                    [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name} for f in self._files()]
                ).encode(),
            )
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": file.name} for file in self._files()]
            self._send(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        else:
            self._send_file(path.rpartition("/")[2])

    def _files(self) -> list[Path]:
        return sorted(self.server.directory.iterdir())

    def _send_file(self, name: str) -> None:
        if self.command == "GET":
            self.server.fetched.add(name)
        self._send(200, (self.server.directory / name).read_bytes(), {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Hub]:
    directory = tmp_path / "repository"
    directory.mkdir()
    for file in tiny_checkpoint.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    for unused in ("pytorch_model.bin", "tf_model.h5", "README.md", "rust_model.ot"):
        (directory / unused).write_bytes(b"large and not wanted")
    with Hub(directory) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Fetch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Ask a hub for a name, with a cache that the test's calls share."""

    def run(name: str, endpoint: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        variables = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1",
        }
        return subprocess.run(
            [sys.executable, "-c", RESOLVE, name],
            cwd=ROOT,
            env=clean | variables | environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run


def test_a_hub_name_becomes_a_directory_that_loads(hub: Hub, fetch: Fetch) -> None:
    result = fetch(REPOSITORY, hub.url)
    assert result.returncode == 0, result.stderr
    directory = Path(result.stdout.strip())
    assert load_model(directory).config.vocab_size == load_tokenizer(directory).vocab_size


def test_only_the_files_that_are_used_are_fetched(hub: Hub, fetch: Fetch) -> None:
    fetch(REPOSITORY, hub.url)
    assert hub.fetched == {"config.json", "model.safetensors", "vocab.json", "merges.txt"}


def test_all_that_says_how_a_text_is_read_and_where_it_ends_is_fetched(hub: Hub, fetch: Fetch) -> None:
    wanted = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"}
    wanted |= {"vocab.txt", "chat_template.jinja"}
    for name in wanted:
        (hub.directory / name).write_text("{}")
    fetch(REPOSITORY, hub.url)
    assert wanted < hub.fetched


def test_a_model_with_a_pickle_alone_is_refused_with_the_command_that_converts_it(hub: Hub, fetch: Fetch) -> None:
    (hub.directory / "model.safetensors").unlink()
    result = fetch(REPOSITORY, hub.url)
    assert result.returncode == 1
    assert f"the hub has no safetensors of {REPOSITORY}" in result.stderr
    command = shlex.split(result.stderr.partition("serve the directory: ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "command", "exec")
    assert f"M.from_pretrained('{REPOSITORY}').save_pretrained('tiny-gpt2')" in command[2]
    assert "T.from_pretrained" in command[2]
    assert "pytorch_model.bin" not in hub.fetched


def test_what_was_downloaded_once_needs_no_hub_any_more(hub: Hub, fetch: Fetch) -> None:
    first = fetch(REPOSITORY, hub.url)
    offline = fetch(REPOSITORY, hub.url, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout == first.stdout


def test_a_progress_bar_shows_what_is_being_fetched(hub: Hub, fetch: Fetch) -> None:
    assert "etching" in fetch(REPOSITORY, hub.url).stderr


def test_a_name_that_the_hub_does_not_have_is_refused(hub: Hub, fetch: Fetch) -> None:
    result = fetch("someone/else", hub.url)
    assert result.returncode == 1
    assert "someone/else is neither a directory here nor a model on the hub" in result.stderr


def test_a_gated_model_is_refused_with_what_to_do(hub: Hub, fetch: Fetch) -> None:
    hub.refusal = "GatedRepo"
    assert "ask for access there and set HF_TOKEN" in fetch(REPOSITORY, hub.url).stderr


def test_a_hub_that_cannot_be_reached_is_refused_with_what_to_do(hub: Hub, fetch: Fetch) -> None:
    for environment in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        result = fetch(REPOSITORY, hub.url, **environment)
        assert result.returncode == 1
        assert "check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or give a directory" in result.stderr
        assert "Traceback" not in result.stderr
    assert not hub.fetched


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        resolve_model(REPOSITORY)


def test_a_directory_is_itself_and_the_hub_is_not_asked(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert resolve_model(str(tiny_checkpoint)) == tiny_checkpoint
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert resolve_model(tiny_checkpoint.name).samefile(tiny_checkpoint)


@pytest.mark.parametrize("name", ["/no/such", "./gpt2", "../gpt2", "a/b/c", "models/", "~/gpt2", "", "a b", "/config.json"])
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="no such directory"):
        resolve_model(name)


def test_serving_a_directory_does_not_import_the_hub_library() -> None:
    code = "import sys, model.checkpoint; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=100).returncode == 0
