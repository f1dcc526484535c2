"""Whether the time of a refusal tells how much of an API key was right: Welch's t of right beginnings against wrong ones.

    python -m benchmarks.key_timing

Wanted: |t| below 4.5, over 10,000 timings, of the comparison alone and over HTTP. The two kinds alternate by chance on one
connection; the slowest tenth, which is the machine's other work, is left out. `control` is a comparison that ends at the first
wrong byte, to show that it would be seen.
"""

import random
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.keys import Keys
from benchmarks.machine import write_result
from benchmarks.server import ServerProcess

NUM_TIMINGS = 10_000
KEY = random.Random(0).randbytes(256).hex()  # as long as a key may be: the more there is to compare, the more there is to see
NEAR = KEY[:-1] + ("1" if KEY[-1] == "0" else "0")
FAR = ("1" if KEY[0] == "0" else "0") + KEY[1:]


def main() -> None:
    result = {
        "comparison": compared(),
        "control": welch(_ends_early),
        "http": over_http(),
    }
    for name, t in result.items():
        print(f"{name}: |t| = {abs(t):.2f} over {NUM_TIMINGS:,} timings")
    write_result("key_timing", "python -m benchmarks.key_timing", result)


def compared() -> float:
    """Of the comparison alone."""
    keys = Keys(f"alice:{KEY}", None)
    return welch(lambda key: keys.holder(key))


def welch(ask: Callable[[bytes], object]) -> float:
    """t of the times that `ask` takes for a key that is right but for its end, less those for one that is wrong from the start."""
    draw, kinds = random.Random(1), (NEAR.encode(), FAR.encode())
    times: tuple[list[int], list[int]] = ([], [])
    for i in range(NUM_TIMINGS + 1000):
        kind = draw.randrange(2)
        started = time.perf_counter_ns()
        ask(kinds[kind])
        if i >= 1000:  # the first ones warm caches
            times[kind].append(time.perf_counter_ns() - started)
    bound = sorted(times[0] + times[1])[NUM_TIMINGS * 9 // 10]
    near, far = ([one for one in kind if one <= bound] for kind in times)
    error = statistics.variance(near) / len(near) + statistics.variance(far) / len(far)
    return round((statistics.mean(near) - statistics.mean(far)) / error**0.5, 2)


def _ends_early(key: bytes) -> bool:
    return all(a == b for a, b in zip(key, KEY.encode(), strict=True))


def over_http() -> float:
    """The same over one connection to a service."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys"
        file.touch(0o600)
        file.write_text(f"alice:{KEY}")
        with ServerProcess(api_keys_file=file) as server:
            host, port = server.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return welch(lambda key: _refused(connection, key))


def _refused(connection: socket.socket, key: bytes) -> None:
    connection.sendall(b"GET /info HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
    answer = connection.recv(65536)
    while answer and not answer.endswith(b"}"):
        more = connection.recv(65536)
        answer = answer + more if more else b""
    if not answer.startswith(b"HTTP/1.1 401 "):
        raise RuntimeError(f"this is no refusal: {answer[:200]!r}")


if __name__ == "__main__":
    main()
