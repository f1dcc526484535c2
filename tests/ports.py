"""Ports of this machine for what a test starts by a number, and addresses where nobody listens."""

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

# Below those that the kernel chooses from (Linux: 32,768, macOS: 49,152, and on): one of these is given to nobody who asks
# for any, nor to a connection's own end, between its being found free and its use.
CHOICE = range(10_000, 30_000)


def free_ports(count: int) -> list[int]:
    """Different ones."""
    candidates = random.SystemRandom().sample(CHOICE, len(CHOICE))
    return list(islice(filter(_is_free, candidates), count))


def free_port() -> int:
    return free_ports(1)[0]


@contextmanager
def unanswered_address() -> Iterator[tuple[str, int]]:
    """An address that refuses connections for as long as the block lasts: it is bound, so that no other gets it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
