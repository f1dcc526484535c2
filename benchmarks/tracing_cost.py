"""What tracing every request costs at 32 clients: tokens/s and CPU time a token, with traces to a collector and without.

    python -m benchmarks.tracing_cost

Both services stand ready all the time and are loaded in turn, the order changing from round to round; medians of the pairs' ratios
count. The CPU time is the service's alone: what else the machine does weighs less on it than on tokens/s. The collector, in this
program's process, reads what comes and throws it away.
"""

import argparse
import contextlib
import statistics
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.machine import write_result
from benchmarks.server import ServerProcess

NUM_CLIENTS, NUM_REQUESTS, NUM_NEW = 32, 32, 128
PROMPT = "The old man looked at the sea and did not say a word. " * 8  # about 128 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with contextlib.ExitStack() as stack:
        address, received = stack.enter_context(collector())
        environments = {"off": {}, "on": {"OTEL_EXPORTER_OTLP_ENDPOINT": address}}
        sides = {side: stack.enter_context(ServerProcess(environment=given)) for side, given in environments.items()}
        pairs = [{side: _measured(sides[side], number) for side in _order(number)} for number in range(rounds + 1)][1:]
    assert received, "nothing was traced"
    result = {name: _summary([(pair["off"][name], pair["on"][name]) for pair in pairs]) for name in pairs[0]["off"]}
    for name, row in result.items():
        print(f"{name}: {row}")
    write_result("tracing_cost", "python -m benchmarks.tracing_cost", result | {"requests a round": NUM_REQUESTS, "rounds": rounds})


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, list[int]]]:
    """Its address, and the sizes of what it has received."""
    received: list[int] = []

    class Collector(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            received.append(len(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()


def _order(number: int) -> tuple[str, str]:
    return ("on", "off") if number % 2 else ("off", "on")


def _measured(server: ServerProcess, number: int) -> dict[str, float]:
    """Of one load; each prompt of a round is another, so that none comes from the cache."""
    parameters = {"max_new_tokens": NUM_NEW, "ignore_eos": True}
    bodies = [{"inputs": f"{number} {i} {PROMPT}", "parameters": parameters} for i in range(NUM_REQUESTS)]
    cpu, loop = server.cpu_seconds(), server.event_loop_seconds()
    measurement = server.load(bodies, NUM_CLIENTS)
    num_tokens = NUM_REQUESTS * NUM_NEW
    return {
        "tokens/s": num_tokens / measurement.seconds,
        "CPU microseconds a token": 1e6 * (server.cpu_seconds() - cpu) / num_tokens,
        "of which the event loop's": 1e6 * (server.event_loop_seconds() - loop) / num_tokens,
    }


def _summary(pairs: list[tuple[float, float]]) -> dict[str, float | list[float]]:
    ratios = [on / off for off, on in pairs]
    return {
        "off": round(statistics.median(off for off, _ in pairs), 2),
        "on": round(statistics.median(on for _, on in pairs), 2),
        "on/off": round(statistics.median(ratios), 4),
        "all ratios": [round(ratio, 3) for ratio in sorted(ratios)],
    }


if __name__ == "__main__":
    main()
