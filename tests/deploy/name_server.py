"""A name server for one name, whose addresses a test changes, as Docker's answers for the containers of a service."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.service import PATIENCE_SECONDS

HEADER, QUESTION_END = 12, 5  # bytes: the header of a message; the root label, type and class at the end of its question
TYPE_A, CLASS_IN, NO_SUCH_NAME = b"\0\1", b"\0\1", 3


class NameServer:
    """Answers any question for an address by `addresses`; where there are none, the name does not exist."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.num_asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"", self._socket.getsockname())  # wakes it up
        self._thread.join(PATIENCE_SECONDS)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self.num_asked += 1
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035, section 4.1: the question again, and a record for each address, which lives for Docker's 600 s."""
        question = query[HEADER : query.index(b"\0", HEADER) + QUESTION_END]
        flags = (0x8180 | (0 if self.addresses else NO_SUCH_NAME)).to_bytes(2, "big")
        counts = b"\0\1" + len(self.addresses).to_bytes(2, "big") + bytes(4)
        records = [
            b"\xc0\x0c" + TYPE_A + CLASS_IN + (600).to_bytes(4, "big") + b"\0\4" + socket.inet_aton(address)
            for address in self.addresses
        ]
        return query[:2] + flags + counts + question + b"".join(records)


@contextmanager
def name_server() -> Iterator[NameServer]:
    running = NameServer()
    try:
        yield running
    finally:
        running.close()
