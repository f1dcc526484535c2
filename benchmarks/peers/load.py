"""The load client for the peers that serve: light and in a process of its own as benchmarks.load, in each server's dialect."""

import asyncio
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers.servers import SERVERS, Server


def run_load(name: str, url: str, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
    """Send every prompt at once and read the streams; the same document as a worker answers."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, url, prompts, max_new_tokens).result()


def _run(name: str, url: str, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
    return asyncio.run(_load(SERVERS[name], url, prompts, max_new_tokens))


async def _load(server: Server, url: str, prompts: list[list[int]], max_new_tokens: int) -> dict[str, Any]:
    requests = [_request_bytes(url, server.body(prompt, max_new_tokens)) for prompt in prompts]
    started = time.perf_counter()
    token_times = await asyncio.gather(*(_stream(server, url, request, started) for request in requests))
    seconds = time.perf_counter() - started
    if any(len(times) != max_new_tokens for times in token_times):
        raise RuntimeError(f"{max_new_tokens} tokens a sequence were asked for, {sorted(map(len, token_times))} came")
    return {
        "seconds": seconds,
        "first_token_seconds": [times[0] for times in token_times],
        "token_times": token_times,
        "tokens": sum(map(len, token_times)),
    }


def _request_bytes(url: str, body: dict[str, Any]) -> bytes:
    address, content = urlsplit(url), json.dumps(body).encode()
    head = f"POST {address.path} HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return head.encode() + f"content-length: {len(content)}\r\n\r\n".encode() + content


async def _stream(server: Server, url: str, request: bytes, epoch: float) -> list[float]:
    """When each token came, in seconds since `epoch`; tokens that come in one event have one time."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    times: list[float] = []
    try:
        writer.write(request)
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                now = time.perf_counter() - epoch
                times.extend([now] * (server.num_tokens(json.loads(line[len(b"data: ") :]), len(times)) - len(times)))
    finally:
        writer.close()
    return times
