"""Upstreams that answer as a test says, so that what nginx does with each answer can be seen."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.chaos.service import PATIENCE_SECONDS
from tests.deploy.nginx import received

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def refusal(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nretry-after: 7\r\ncontent-length: 7\r\n\r\nrefused".encode()


class Stubs:
    """Two addresses with one list of answers, the first for whoever is asked first; what was asked is kept."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self.asked: list[bytes] = []
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.addresses = [listener.getsockname() for listener in self._listeners]
        self._threads = [threading.Thread(target=self._serve, args=(listener,), daemon=True) for listener in self._listeners]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for listener in self._listeners:
            with suppress(OSError):  # an error has closed it
                listener.shutdown(socket.SHUT_RDWR)  # wakes up who waits in it
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _serve(self, listener: socket.socket) -> None:
        """Until it is shut down, or to an error: who asks then is refused, and waits for nothing."""
        with listener:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(PATIENCE_SECONDS)
                    self.asked.append(request_on(connection))
                    assert self._answers, "this request is one more than there are answers"
                    connection.sendall(self._answers.pop(0))


@contextmanager
def stubs(*answers: bytes) -> Iterator[Stubs]:
    running = Stubs(list(answers))
    try:
        yield running
    finally:
        running.close()


def request_on(connection: socket.socket) -> bytes:
    """Its head and as much of a body as its Content-Length says."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += received(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < sum(map(int, lengths)):
        body += received(connection)
    return head + b"\r\n\r\n" + body
