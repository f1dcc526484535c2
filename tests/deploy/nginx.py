"""The nginx of deploy/nginx on loopback: the file that compose mounts, with a test's own ports and addresses in it."""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.chaos.service import PATIENCE_SECONDS, until
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy/nginx/nginx.conf.template"
OVERLAY = ROOT / "deploy/docker-compose.scale.yml"
# Another nginx than the path's: GPT2_TEST_NGINX=/path/to/nginx, say of the version that compose names.
NGINX = os.environ.get("GPT2_TEST_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MISSING = "nginx is missing: apt-get install nginx-light"
HTTP2_DIRECTIVE = (1, 25, 1)
RESOLVES = (1, 27, 3)  # what is in an `upstream`, without a licence


class Overlay(yaml.SafeLoader):
    """Reads compose's own tag as the value that it stands before."""


Overlay.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))


def overlay() -> dict[str, dict[str, dict[str, object]]]:
    return yaml.load(OVERLAY.read_text(), Overlay)


@cache
def version() -> tuple[int, ...]:
    found = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(map(int, re.findall(r"\d+", found)[:3]))


def defaults() -> dict[str, str]:
    """What the template is filled in with where an operator sets nothing."""
    environment = overlay()["services"]["nginx"]["environment"]
    assert isinstance(environment, dict)
    return {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for name, value in environment.items()}


class Config:
    """The template's text as compose's nginx gets it, and then as it fits this machine; a change that finds nothing fails."""

    def __init__(self, **settings: object) -> None:
        values = defaults() | {f"GPT2_{name.upper()}": str(value) for name, value in settings.items()}
        self.text = re.sub(r"\$\{(GPT2_\w+)\}", lambda found: values[found[1]], TEMPLATE.read_text())

    def replace(self, old: str, new: str) -> None:
        assert old in self.text, f"the template has no {old!r} any more"
        self.text = self.text.replace(old, new)

    def fit(self, directory: Path, https_port: int, http_port: int) -> None:
        """Ports and files of a test's own, and what Debian's nginx, older than the image's, calls by another name."""
        self.replace("listen 8443 ssl", f"listen 127.0.0.1:{https_port} ssl")
        self.replace("listen 8080", f"listen 127.0.0.1:{http_port}")
        self.replace("/run/secrets/gpt2_certificate", str(directory / "certificate"))
        if version() < HTTP2_DIRECTIVE:
            self.replace("ssl default_server;\n        http2 on;", "ssl http2 default_server;")

    def name_services(self, addresses: Sequence[tuple[str, int]]) -> None:
        """Each by its address, in the place of the name that Docker's DNS knows."""
        [server] = re.findall(r"server gpt2:8000 resolve .*;", self.text)
        each = [server.replace("gpt2:8000 resolve", f"{host}:{port}") for host, port in addresses]
        self.replace(server, " ".join(each))


class Proxy:
    """A running nginx; whatever it says is kept in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, https_port: int, http_port: int) -> None:
        self.process, self.directory = process, directory
        self.url, self.plain_url = f"https://127.0.0.1:{https_port}", f"http://127.0.0.1:{http_port}"
        self.https_port, self.http_port = https_port, http_port
        self.certificate = directory / "certificate"
        self.trust = ssl.create_default_context(cafile=str(self.certificate))

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.https_port)) == 0

    def stop_gracefully(self) -> None:
        """As the image's STOPSIGNAL does."""
        self.process.send_signal(signal.SIGQUIT)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.trust, timeout=PATIENCE_SECONDS)

    def connect(self) -> socket.socket:
        """A connection whose handshake is over."""
        bare = socket.create_connection(("127.0.0.1", self.https_port), timeout=PATIENCE_SECONDS)
        return self.trust.wrap_socket(bare, server_hostname="127.0.0.1")

    def answer_to(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of the answer to bytes that no client library would send."""
        with self.connect() as connection:
            connection.sendall(request)
            response = b""
            while not (found := re.match(rb"(?is)HTTP/1.1 (\d+).*content-length: (\d+).*?\r\n\r\n", response)) or len(
                response
            ) < found.end() + int(found[2]):
                response += received(connection)
        lines = response[: found.end()].decode().lower().split("\r\n")[1:-2]
        return int(found[1]), dict(line.split(": ", 1) for line in lines), json.loads(response[found.end() :])

    def curl(self, *arguments: str, path: str) -> subprocess.Popen[bytes]:
        """HTTP/2, which httpx has only with another package. What curl says comes unbuffered."""
        command = ["curl", "--silent", "--no-buffer", "--http2", "--cacert", str(self.certificate), *arguments, self.url + path]
        return subprocess.Popen(command, stdout=subprocess.PIPE)


@contextmanager
def proxy(addresses: Sequence[tuple[str, int]], **settings: object) -> Iterator[Proxy]:
    """nginx in front of what listens there, with settings by their names; it ends with the block."""
    config = Config(**settings)
    config.name_services(addresses)
    with running_nginx(config) as running:
        yield running


@contextmanager
def running_nginx(config: Config) -> Iterator[Proxy]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        https_port, http_port = free_ports(2)
        config.fit(directory, https_port, http_port)
        write_certificate(directory / "certificate", directory / "certificate_key")
        command = written(config, directory)
        with (directory / "log").open("ab") as output:
            process = subprocess.Popen([*command, "-g", own_directives()], stdout=output, stderr=subprocess.STDOUT)
        running = Proxy(process, directory, https_port, http_port)
        try:
            until(lambda: process.poll() is not None or running.listens(), pause=0.02)
            assert process.poll() is None, f"nginx did not come up:\n{running.log}"
            yield running
        finally:
            _end(process)


def written(config: Config, directory: Path) -> list[str]:
    """The command that reads the file, as compose's has it."""
    file = directory / "nginx.conf"
    file.write_text(config.text)
    return [str(NGINX), "-p", str(directory), "-c", str(file)]


def own_directives() -> str:
    """root's workers would be another user's, who may not look into a test's directories."""
    return "daemon off;" + (f" user {getpass.getuser()};" if os.geteuid() == 0 else "")


def write_certificate(file: Path, key_file: Path) -> None:
    """By the command of docs/proxy.md."""
    [command] = re.findall(r"(?m)^openssl req -x509.*\n.*$", (ROOT / "docs/proxy.md").read_text())
    words = command.replace("\\\n", "").replace("certificate.key", str(key_file)).replace("certificate.pem", str(file)).split()
    subprocess.run(words, check=True, capture_output=True)


def received(connection: socket.socket) -> bytes:
    """What has come of a message that is not whole yet."""
    piece = connection.recv(65_536)
    if not piece:
        raise ConnectionError("the other side closed in the middle of a message")
    return piece


def get(path: str, header: str = "a: b") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n".encode()


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length or len(body)}\r\n\r\n".encode() + body


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM: killed, the master would leave its workers behind."""
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
