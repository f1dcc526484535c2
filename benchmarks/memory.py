"""Whether the server's memory grows: RssAnon after 500 and after 2,000 mixed requests on the default checkpoint.

    python -m benchmarks.memory

Wanted: at most 4 MB more. Mixed: prompts of 1 to 400 tokens, greedy and sampled with every filter, stop
strings, and clients that leave.
"""

import asyncio
import json
import random
from urllib.parse import urlsplit

from app.settings import DEFAULT_MODEL
from benchmarks.machine import prompts_of, write_result
from benchmarks.server import ServerProcess
from model.checkpoint import load_tokenizer

BATCH, CLIENTS = 250, 16


def main() -> None:
    generator = random.Random(0)
    prompts = prompts_of(load_tokenizer(DEFAULT_MODEL), 400, 64)
    sizes: dict[int, float] = {}
    with ServerProcess() as server:
        for done in range(BATCH, 2000 + BATCH, BATCH):
            bodies = [_body(generator, prompts) for _ in range(BATCH)]
            leaving = BATCH // 10
            server.load(bodies[leaving:], CLIENTS)
            asyncio.run(_leave_early(server.url, bodies[:leaving]))
            sizes[done] = round(server.rss_anon_bytes() / 1e6, 2)
            print(f"{done} requests: {sizes[done]} MB")
    growth = round(sizes[2000] - sizes[500], 2)
    print(f"{growth} MB more after 2,000 than after 500")
    write_result("memory", "python -m benchmarks.memory", {"rss_anon_mb": sizes, "growth_mb": growth})


def _body(generator: random.Random, prompts: list[str]) -> dict[str, object]:
    words = generator.choice(prompts).split(" ")
    parameters: dict[str, object] = {"max_new_tokens": generator.randint(1, 40), "details": generator.random() < 0.5}
    if generator.random() < 0.6:
        parameters |= {
            "temperature": generator.uniform(0.2, 1.5),
            "top_p": generator.uniform(0.5, 1),
            "seed": generator.getrandbits(64),
        }
    if generator.random() < 0.3:
        parameters |= {"top_k": generator.randint(1, 100), "typical_p": 0.9, "min_p": 0.01, "temperature": 0.9}
    if generator.random() < 0.3:
        parameters |= {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": 0.5, "stop": ["the", "and "]}
    return {"inputs": " ".join(words[: generator.randint(2, len(words))]), "parameters": parameters}


async def _leave_early(url: str, bodies: list[dict[str, object]]) -> None:
    address = urlsplit(url)
    for body in bodies:
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"POST /generate_stream HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
        await reader.read(100)
        writer.close()


if __name__ == "__main__":
    main()
