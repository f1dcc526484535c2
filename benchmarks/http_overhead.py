"""What HTTP and streaming cost beside the model: the server's processor time a streamed token, default checkpoint, 32 clients.

    python -m benchmarks.http_overhead

At most 60 us wanted, in all and on the event loop's thread alone: the others compute the model. What share of the engine's own
speed is left over HTTP stands in benchmarks.compare_cpu.
"""

import argparse
import statistics

from app.settings import DEFAULT_MODEL
from benchmarks.machine import prompts_of, write_result
from benchmarks.server import ServerProcess
from model.checkpoint import load_tokenizer

CLIENTS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cpu = _cpu_per_token(options.rounds)
    print(f"{cpu['total_us']:.0f} us of processor time a token, {cpu['event_loop_us']:.0f} on the event loop")
    write_result("http_overhead", "python -m benchmarks.http_overhead", cpu)


def _cpu_per_token(rounds: int) -> dict[str, float]:
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    prompts = prompts_of(tokenizer, 32, 4 * CLIENTS)
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": 200, "ignore_eos": True}} for prompt in prompts]
    total, event_loop = [], []
    with ServerProcess() as server:
        server.load(bodies[:CLIENTS], CLIENTS)
        for _ in range(rounds):
            cpu, loop = server.cpu_seconds(), server.event_loop_seconds()
            num_tokens = server.load(bodies, CLIENTS).num_tokens
            total.append((server.cpu_seconds() - cpu) / num_tokens * 1e6)
            event_loop.append((server.event_loop_seconds() - loop) / num_tokens * 1e6)
    return {"total_us": round(statistics.median(total), 1), "event_loop_us": round(statistics.median(event_loop), 1)}


if __name__ == "__main__":
    main()
