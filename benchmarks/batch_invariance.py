"""Whether one request gives the same bits alone and among 1 to 31 neighbours: GPT-2 124M shape, random weights, over HTTP.

    python -m benchmarks.batch_invariance

Each probe is asked for alone on an idle server, then again amid neighbours that come and go; token ids and log-probabilities must
be equal to the last bit. Done in each precision with 1, 2 and 3 threads.
"""

import argparse
import asyncio
import itertools
import random
import tempfile
import urllib.request
from pathlib import Path

import httpx

from benchmarks.machine import gpt2_tokenizer, prompts_of, random_gpt2, write_result
from benchmarks.server import ServerProcess

LENGTHS = (1, 2, 17, 127, 128, 129, 300, 513, 900)
METRICS = (
    "gpt2_prefix_cache_hit_tokens_total",
    "gpt2_prefill_chunks_total",
    'gpt2_batch_size_bucket{le="1.0"}',
    "gpt2_batch_size_count",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dtypes", nargs="+", default=["int8", "bfloat16", "float32"])
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "gpt2-124m-random")
    options = parser.parse_args()
    results = {}
    for dtype, threads in itertools.product(options.dtypes, options.threads):
        with ServerProcess(random_gpt2(options.model), threads=threads, dtype=dtype) as server:
            num_equal, num_probes = asyncio.run(_compare(server.url))
            results[f"{dtype}, {threads} threads"] = {"equal": num_equal, "probes": num_probes, **_metrics(server.url)}
            print(f"{dtype}, {threads} threads: {results[f'{dtype}, {threads} threads']}", flush=True)
    write_result("batch_invariance", "python -m benchmarks.batch_invariance", results)
    if any(result["equal"] != result["probes"] for result in results.values()):
        raise SystemExit("not the same bits")
    if not all(result["prefix_hit_tokens"] and result["steps_with_several"] for result in results.values()):
        raise SystemExit("nothing was batched or reused: this compared nothing")


async def _compare(url: str) -> tuple[int, int]:
    generator = random.Random(0)
    long_prompts = prompts_of(gpt2_tokenizer(), max(LENGTHS), 4)
    probes = [_body(long_prompts[0], length, sampled) for length in LENGTHS for sampled in (False, True)]
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=64)) as client:
        alone = [await _ask(client, probe) for probe in probes]
        num_equal = 0
        for probe, expected in zip(probes, alone, strict=True):
            neighbours = [_neighbour(generator, long_prompts) for _ in range(generator.randint(1, 31))]
            tasks = [asyncio.create_task(_ask(client, body)) for body in neighbours[::2]]
            await asyncio.sleep(generator.uniform(0, 0.3))
            wanted = asyncio.create_task(_ask(client, probe))
            await asyncio.sleep(generator.uniform(0, 0.3))
            tasks += [asyncio.create_task(_ask(client, body)) for body in neighbours[1::2]]
            num_equal += await wanted == expected
            for task in tasks[::3]:
                task.cancel()  # some leave before they are done
            await asyncio.gather(*tasks, return_exceptions=True)
    return num_equal, len(probes)


def _body(prompt: str, num_tokens: int, sampled: bool) -> dict[str, object]:
    words = prompt.split(" ")[1 : num_tokens + 1]
    parameters: dict[str, object] = {"max_new_tokens": 12, "details": True, "ignore_eos": True}
    if sampled:
        parameters |= {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.1, "seed": 7}
    return {"inputs": "".join(f" {word}" for word in words), "parameters": parameters}


def _neighbour(generator: random.Random, prompts: list[str]) -> dict[str, object]:
    return _body(generator.choice(prompts), generator.choice((1, 5, 60, 128, 200, 257, 400)), generator.random() < 0.5)


async def _ask(client: httpx.AsyncClient, body: dict[str, object]) -> list[tuple[int, float]]:
    response = await client.post("/generate", json=body)
    response.raise_for_status()
    return [(token["id"], token["logprob"]) for token in response.json()["details"]["tokens"]]


def _metrics(url: str) -> dict[str, float]:
    lines = urllib.request.urlopen(f"{url}/metrics").read().decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    hits, chunks, single, steps = (float(samples[name]) for name in METRICS)
    return {"prefix_hit_tokens": hits, "prefill_chunks": chunks, "steps_with_several": steps - single}


if __name__ == "__main__":
    main()
