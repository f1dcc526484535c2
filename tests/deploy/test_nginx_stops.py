"""Services that end behind nginx, in the quick form of nginx_stops, and containers that come and go by Docker's DNS."""

from contextlib import ExitStack

import httpx
import pytest

from tests.chaos.goals import Scale
from tests.chaos.service import ServiceProcess, service, until
from tests.deploy.name_server import NameServer, name_server
from tests.deploy.nginx import MISSING, NGINX, RESOLVES, Config, running_nginx, version
from tests.deploy.nginx_stops import SHORT, ends
from tests.ports import free_port

pytestmark = pytest.mark.skipif(NGINX is None, reason=MISSING)


@pytest.mark.timeout(600)  # what happens in order here has no limit but patience
def test_a_stop_behind_nginx_loses_nothing_and_a_kill_what_was_under_way() -> None:
    assert [figure for figure in ends(Scale()) if not figure.holds] == []


@pytest.mark.skipif(
    NGINX is not None and version() < RESOLVES, reason="this nginx is older than 1.27.3, from which on it follows a name"
)
def test_containers_that_come_and_go_are_followed_by_their_name() -> None:
    with ExitStack() as stack:
        names = stack.enter_context(name_server())
        front = stack.enter_context(running_nginx(by_name(names, port := free_port())))
        client = stack.enter_context(front.client())
        assert client.get("/info").status_code == 502, "there is none yet"
        first = stack.enter_context(service(host="127.0.0.2", port=port))
        names.addresses = ["127.0.0.2"]
        until(lambda: client.get("/info").status_code == 200, pause=0.1)
        second = stack.enter_context(service(host="127.0.0.3", port=port))
        names.addresses = ["127.0.0.2", "127.0.0.3"]
        until(lambda: is_asked(client, second), pause=0.1)
        names.addresses = ["127.0.0.3"]
        until(lambda: not is_asked(client, first), pause=0.1)
        assert first.end() == 0
        assert [client.post("/generate", json=SHORT).status_code for _ in range(20)] == 20 * [200]


def by_name(names: NameServer, port: int) -> Config:
    """As in compose, but for the name server's address, and the port, which cannot be any service's on this machine."""
    config = Config()
    config.replace("resolver 127.0.0.11 ", f"resolver 127.0.0.1:{names.port} ")
    config.replace("server gpt2:8000 ", f"server gpt2:{port} ")
    return config


def is_asked(client: httpx.Client, running: ServiceProcess) -> bool:
    """Whether one of some requests reaches that service."""
    before = running.metrics()["gpt2_accepted_total"]
    for _ in range(10):
        assert client.post("/generate", json=SHORT).status_code == 200
    return running.metrics()["gpt2_accepted_total"] > before
