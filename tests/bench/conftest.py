"""What the tests of the load generator share: servers on raw sockets."""

from collections.abc import Callable, Iterator

import pytest

from app.bench.dialects import DIALECTS
from app.bench.exchange import Endpoint
from app.bench.load import Answer, ClosedLoop, run_load
from tests.bench.raw import RawServer


@pytest.fixture
def raw_server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*answers: bytes, **behaviour: int) -> RawServer:
        servers.append(RawServer(list(answers), **behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def answer_to(raw_server: Callable[..., RawServer]) -> Callable[..., Answer]:
    """What the load generator makes of one answer."""

    def read(answer: bytes, dialect: str = "generate") -> Answer:
        measurement = run_load(Endpoint(raw_server(answer).url), DIALECTS[dialect], [{}], ClosedLoop(1))
        return measurement.answers[0]

    return read
