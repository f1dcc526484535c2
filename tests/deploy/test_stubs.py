"""The stand-ins for services behind nginx: a test in which they are asked something else than it expects ends, with an error."""

import socket

import pytest

from tests.chaos.service import PATIENCE_SECONDS
from tests.deploy.nginx import get, post
from tests.deploy.stubs import request_on, stubs


@pytest.mark.timeout(60)  # or the pieces of what never comes would be waited for
@pytest.mark.parametrize("part", [b"", get("/info")[:-1], post("/generate", b"{", 2)], ids=["nothing", "a head", "a body"])
def test_who_leaves_before_its_request_is_whole_is_an_error(part: bytes) -> None:
    client, server = socket.socketpair()
    with client, server:
        client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            request_on(server)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # by which it is an error of the test
def test_who_asks_once_too_often_is_refused_and_waits_for_nothing() -> None:
    with stubs() as upstreams:
        assert ask(upstreams.addresses[0]) == b""
        with pytest.raises(ConnectionError):
            ask(upstreams.addresses[0])


def ask(address: tuple[str, int]) -> bytes:
    """The first byte of the answer."""
    with socket.create_connection(address, PATIENCE_SECONDS) as connection:
        connection.sendall(get("/info"))
        return connection.recv(1)
