"""Servers that misbehave, on a raw socket: each connection gets the bytes of a script."""

import json
import socket
import threading
from contextlib import ExitStack

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def json_answer(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def stream(*events: object, end: str = "") -> bytes:
    return (HEAD + "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end).encode()


class RawServer:
    """Answers the n-th connection with `answers[n]`, further ones with the last of them; `together` are answered at once.

    After `hangs_at` answers it waits until the client has gone.
    """

    def __init__(self, answers: list[bytes], together: int = 1, hangs_at: int = 0) -> None:
        self._answers, self._together, self._hangs_at = answers, together, hangs_at
        self.hung = threading.Event()
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            with ExitStack() as stack:
                for connection in [stack.enter_context(self.listener.accept()[0]) for _ in range(self._together)]:
                    if not self._receive(connection):
                        return  # the end of the test
                    connection.sendall(self._answers[min(len(self.requests), len(self._answers)) - 1])
                    if len(self.requests) == self._hangs_at:
                        self.hung.set()
                        connection.recv(1)  # comes back when the client has gone
                    connection.close()

    def _receive(self, connection: socket.socket) -> bool:
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        if not head:
            return False
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return True

    def close(self) -> None:
        for _ in range(self._together):
            socket.create_connection(self.listener.getsockname()).close()
        self.thread.join(60)
        self.listener.close()
