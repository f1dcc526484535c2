"""The service over HTTP: tokens a second and times to the first token, by the number of clients, each in a stream of its own.

The clients are several processes of `gpt2 bench`'s load generator, since one of them reads some 50,000 events a second.
"""

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from multiprocessing.pool import Pool
from typing import Any, NamedTuple

from app.bench.dialects import DIALECTS, Asked
from app.bench.exchange import Endpoint
from app.bench.load import ClosedLoop, run_load
from app.bench.prompts import Vocabulary, fetch_vocabulary, make_prompts
from app.bench.report import percentile
from benchmarks.gpu.results import add_checkpoint, add_dtype, results_of, rounded, stage_parser
from benchmarks.server import ServerProcess

REQUESTS_EACH = 4  # of a client, one after another
MIN_REQUESTS = 16
BEGIN_SECONDS = 0.3  # in which every process gets its requests


class Share(NamedTuple):
    """A process's part of a load, whose clients begin at a time of the monotonic clock."""

    url: str
    bodies: list[dict[str, Any]]
    clients: int
    begin: float


class Found(NamedTuple):
    """What a process measured: tokens, the load's end, and seconds."""

    num_tokens: int
    end: float
    first_token: list[float]
    inter_token: list[float]
    failure: str | None


def main() -> None:
    parser = stage_parser(__doc__)
    add_checkpoint(parser)
    add_dtype(parser)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--processes", type=int, default=8, help="of the load generator, at most (default: %(default)s)")
    options = parser.parse_args()
    results, rows = results_of(options), list[dict[str, object]]()
    settings = {"device": options.device, "dtype": options.dtype, "max_running": max(options.clients)}
    if options.device == "cuda":
        settings["kernels"] = "triton"  # or none: PyTorch's would be served in their place where they fail
    fork = multiprocessing.get_context("fork")  # the others would import torch in each process
    with fork.Pool(options.processes) as pool, ServerProcess(options.checkpoint, **settings) as server:
        vocabulary = asyncio.run(fetch_vocabulary(Endpoint(server.url)))
        sizes = [MIN_REQUESTS, *map(_num_requests, options.clients)]
        warm_up, *loads = bodies_of_loads(vocabulary, options.prompt_tokens, options.output_tokens, sizes)
        _load(pool, server, warm_up, 1, 1)
        for clients, bodies in zip(options.clients, loads, strict=True):
            rows.append(_load(pool, server, bodies, clients, min(clients, options.processes)))
            results.put("http", {"ready_seconds": rounded(server.ready_seconds), "rows": rows})
            print(
                f"{clients:4} clients: {rows[-1]['tokens_per_second']:10,.0f} tokens/s, first token p50 "
                f"{rows[-1]['first_token_ms_p50']} ms, event loop {rows[-1]['event_loop_us_per_token']} us a token",
                flush=True,
            )


def _num_requests(clients: int) -> int:
    return max(MIN_REQUESTS, REQUESTS_EACH * clients)


def bodies_of_loads(vocabulary: Vocabulary, num_prompt: int, num_new: int, sizes: Sequence[int]) -> list[list[dict[str, Any]]]:
    """So many requests for each load, with prompts of random words. None is like another, of whatever load: a prompt that was sent
    before would be found in the cache, and its first token come without its being computed."""
    prompts = make_prompts(vocabulary, [num_prompt] * sum(sizes), seed=0)
    bodies = (DIALECTS["generate"].body(Asked(prompt, num_new)) for prompt in prompts)
    return [list(islice(bodies, size)) for size in sizes]


def _load(pool: Pool, server: ServerProcess, bodies: list[dict[str, Any]], clients: int, processes: int) -> dict[str, object]:
    """All that was measured, taken together: from the first process's beginning to the last one's end."""
    begin = time.monotonic() + BEGIN_SECONDS
    shares = [Share(server.url, bodies[i::processes], len(range(i, clients, processes)), begin) for i in range(processes)]
    cpu, loop = server.cpu_seconds(), server.event_loop_seconds()
    found = pool.map(_run, shares, chunksize=1)
    cpu, loop = server.cpu_seconds() - cpu, server.event_loop_seconds() - loop
    if failure := next((one.failure for one in found if one.failure), None):
        raise RuntimeError(f"an answer failed: {failure}")
    num_tokens = sum(one.num_tokens for one in found)
    first = sorted(value for one in found for value in one.first_token)
    inter = sorted(value for one in found for value in one.inter_token)
    return {
        "clients": clients,
        "requests": len(bodies),
        "tokens_per_second": rounded(num_tokens / (max(one.end for one in found) - begin)),
        "first_token_ms_p50": rounded(1e3 * statistics.median(first)),
        "first_token_ms_p99": rounded(1e3 * percentile(first, 99)),
        "inter_token_ms_p50": rounded(1e3 * statistics.median(inter)),
        "inter_token_ms_p99": rounded(1e3 * percentile(inter, 99)),
        "server_cpu_us_per_token": rounded(1e6 * cpu / num_tokens),
        "event_loop_us_per_token": rounded(1e6 * loop / num_tokens),
    }


def _run(share: Share) -> Found:
    """A process's clients; the clock is one for all processes."""
    time.sleep(max(0.0, share.begin - time.monotonic()))
    measurement = run_load(Endpoint(share.url), DIALECTS["generate"], share.bodies, ClosedLoop(share.clients))
    end = time.monotonic()
    answers = measurement.whole
    return Found(
        measurement.num_tokens,
        end,
        [answer.first_token_seconds for answer in answers],
        [value for answer in answers for value in answer.inter_token_seconds],
        str(measurement.failed[0].failure) if measurement.failed else None,
    )


if __name__ == "__main__":
    main()
