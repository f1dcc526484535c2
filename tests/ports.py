"""Ports of this machine for what a test starts by a number, which cannot be told to choose one itself."""

import socket


def free_ports(count: int) -> list[int]:
    """Different ones, free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def free_port() -> int:
    return free_ports(1)[0]
