"""How soon the server is ready, with the default checkpoint and GPT-2 124M, and the first token of 32 on an idle server.

    python -m benchmarks.startup

Wanted: ready within 5 s (124M: 2 s) of the exec of `gpt2 serve`, environment installed and page cache warm; first token under
50 ms.
"""

import statistics
import tempfile
from pathlib import Path

from app.settings import DEFAULT_MODEL
from benchmarks.machine import prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess
from model.checkpoint import load_tokenizer

STARTS, PROMPTS = 5, 21


def main() -> None:
    prompts = prompts_of(load_tokenizer(DEFAULT_MODEL), 32, PROMPTS)
    bodies = [{"inputs": prompt, "parameters": {"max_new_tokens": 8}} for prompt in prompts]
    large = random_gpt2(Path(tempfile.gettempdir()) / "gpt2-124m-random")
    ready, first = _starts(DEFAULT_MODEL, bodies)
    ready_large, _ = _starts(large, bodies[:1])
    result = {
        "ready_seconds": _summary(ready),
        "ready_seconds_gpt2_124m": _summary(ready_large),
        "first_token_ms": _summary([1000 * seconds for seconds in first]),
    }
    print(result)
    write_result("startup", "python -m benchmarks.startup", result)


def _starts(model: Path, bodies: list[dict[str, object]]) -> tuple[list[float], list[float]]:
    """Seconds until ready, of each start, and until the first token, of each request."""
    ready, first = [], []
    for start in range(1 + STARTS):
        with ServerProcess(model) as server:
            if start:  # the first one warms the page cache
                ready.append(server.ready_seconds)
                first += [answer.first_token_seconds for answer in server.load(bodies, concurrency=1).answers]
    return ready, first


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "slowest": round(max(values), 2), "number": len(values)}


if __name__ == "__main__":
    main()
