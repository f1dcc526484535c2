"""How soon the server is ready, and the first token on an idle server: the default checkpoint, a prompt of 32 tokens.

    python -m benchmarks.startup

Wanted: ready within 5 s of the exec of `gpt2 serve`, environment installed and page cache warm; first token under 50 ms.
"""

import statistics

from app.settings import DEFAULT_MODEL
from benchmarks.load import run_load
from benchmarks.machine import prompts_of, write_result
from benchmarks.server import ServerProcess
from model.checkpoint import load_tokenizer

STARTS, PROMPTS = 5, 21


def main() -> None:
    prompts = prompts_of(load_tokenizer(DEFAULT_MODEL), 32, PROMPTS)
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": 8}} for prompt in prompts]
    ready, first = [], []
    for start in range(1 + STARTS):
        with ServerProcess() as server:
            if start:  # the first one warms the page cache
                ready.append(server.ready_seconds)
                first += run_load(server.url, bodies, concurrency=1).first_token_seconds
    result = {
        "ready_seconds": {"median": round(statistics.median(ready), 2), "slowest": round(max(ready), 2), "starts": STARTS},
        "first_token_ms": {
            "median": round(1000 * statistics.median(first), 1),
            "slowest": round(1000 * max(first), 1),
            "requests": len(first),
        },
    }
    print(result)
    write_result("startup", "python -m benchmarks.startup", result)


if __name__ == "__main__":
    main()
