"""The promise at the heart of the service: a request's bytes do not depend on what else is in the batch.

Real requests over HTTP, alone and among neighbours that come, go and leave half-way; token ids and float32 log-probabilities must
be identical. The tiny checkpoint is 100 wide, which no vector length divides.
"""

import asyncio
import random

import httpx
import pytest
import torch

import model.choice
from model.native.library import NativeUnavailable

WORDS = ["the ", "old ", "man ", "and ", "sea ", "of ", "stone ", "é", "\n", "42 ", "walks", ", "]
STYLES = {
    "greedy": {},
    "sampled": {"temperature": 1.0},
    "filtered": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
    "several": {"temperature": 1.0, "n": 3, "top_n_tokens": 2},
    "scored": {"temperature": 0.9, "decoder_input_details": True},
    "penalised": {
        "temperature": 1.2,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"7": 3},
    },
}


def text_of(source, num_words):
    return "".join(source.choice(WORDS) for _ in range(num_words))


SHARED = text_of(random.Random(0), 280)  # a prefix of several chunks that many prompts begin with


def watched_requests():
    """One request of each style for each length of prompt, from 1 token to about 900; half of the long ones share a prefix."""
    source, requests = random.Random(1), []
    for i, num_words in enumerate([1, 2, 9, 40, 63, 130, 270, 420]):
        for j, (style, parameters) in enumerate(STYLES.items()):
            prompt = "a" if num_words == 1 else text_of(source, num_words)
            if num_words > 250 and j % 2:
                prompt = SHARED + prompt[: len(prompt) // 3]
            requests.append((f"{style}, {num_words} words", prompt, {**parameters, "max_new_tokens": 12, "seed": 10 * i + j}))
    return requests


def body_of(prompt, parameters):
    return {"inputs": prompt, "parameters": {**parameters, "details": True, "ignore_eos": True}}


async def answer(client, prompt, parameters):
    response = await client.post("/generate", json=body_of(prompt, parameters))
    assert response.status_code == 200, response.text
    details = response.json()["details"]
    return [bits(sample) for sample in (details, *details.get("best_of_sequences", []))]


async def answer_apart(client, prompt, parameters):
    """The same by a request for each sample."""
    n, seed = parameters.get("n", 1), parameters["seed"]
    apart = [await answer(client, prompt, {**parameters, "n": 1, "seed": seed + i}) for i in range(n)]
    return [sample for (sample,) in apart]


def bits(sample):
    """All that was computed for a sample: its tokens, those that were likely beside them, and the prompt's scores."""
    return [sample["prefill"], sample["tokens"], sample.get("top_tokens")]


async def neighbour(client, source, until):
    """One request after another, streamed or not, some of which are left half-way."""
    while not until.is_set():
        prompt = (SHARED if source.random() < 0.3 else "") + text_of(source, source.choice([1, 3, 20, 90]))
        parameters = {
            **source.choice(list(STYLES.values())),
            "max_new_tokens": source.randint(1, 40),
            "seed": source.getrandbits(32),
        }
        async with client.stream("POST", "/generate_stream", json=body_of(prompt, parameters)) as response:
            async for _ in response.aiter_lines():
                if until.is_set() or source.random() < 0.03:
                    break  # leaves


async def among_neighbours(url, requests, num_neighbours, num_at_once):
    """The answers while neighbours come and go, `num_at_once` requests in flight together; without neighbours each sample apart."""
    until, gate = asyncio.Event(), asyncio.Semaphore(num_at_once)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def ask(request):
            async with gate:
                return await (answer if num_neighbours else answer_apart)(client, *request[1:])

        neighbours = [asyncio.create_task(neighbour(client, random.Random(i), until)) for i in range(num_neighbours)]
        answers = await asyncio.gather(*map(ask, requests))
        until.set()
        await asyncio.gather(*neighbours)
    return dict(zip([name for name, *_ in requests], answers, strict=True))


PRECISIONS = {"cpu": ["torch float32", "float32", "bfloat16", "int8"], "cuda": ["auto", "float32", "torch auto"]}


def kinds():
    for kind, precisions in PRECISIONS.items():
        for precision in precisions:
            marks = [pytest.mark.gpu] if kind == "cuda" else []
            yield pytest.param((kind, precision), id=f"{kind} {precision}", marks=marks)


@pytest.fixture(params=kinds())
def start(request, start_server, monkeypatch):
    """Start a server on a device and in a precision; by the native step and by Triton's kernels, unless it says torch."""
    kind, precision = request.param
    dtype = precision.removeprefix("torch ")
    backend = "torch" if dtype != precision else {"cpu": "native", "cuda": "cuda"}[kind]
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; none is here")
    if kind == "cuda":
        monkeypatch.setenv("GPT2_KERNELS", {"cuda": "triton", "torch": "torch"}[backend])
    elif backend == "native":
        request.getfixturevalue("needs_native")
    else:
        monkeypatch.setattr(model.choice, "NativeRunner", refuse)
        monkeypatch.delenv("GPT2_KERNELS", raising=False)

    def start_one(**settings):
        server = start_server(device=kind, dtype=dtype, max_wait_seconds=0, **settings)  # however slow the machine
        info = server.service.info
        assert (info.backend, info.dtype) == (backend, "bfloat16" if dtype == "auto" else dtype), "another step is tested"
        return server

    return start_one


def refuse(*_):
    raise NativeUnavailable("not in this test")


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
def test_a_request_gets_the_same_bits_alone_and_in_any_company(start, threads):
    requests = watched_requests()
    server = start(threads=threads, max_running=32, max_batch_tokens=300)
    alone = asyncio.run(among_neighbours(server.url, requests, num_neighbours=0, num_at_once=1))
    assert server.metric("gpt2_batch_size_count") == server.metric("gpt2_batch_size_bucket", le="1.0"), "nothing was beside them"
    shuffled = random.Random(threads).sample(requests, len(requests))
    for num_neighbours, num_at_once in ((1, 1), (6, 3), (27, 5)):
        crowded = asyncio.run(among_neighbours(server.url, shuffled, num_neighbours, num_at_once))
        for name, tokens in alone.items():
            assert crowded[name] == tokens, f"{name}, among {num_neighbours}"
    assert server.metric("gpt2_batch_size_bucket", le="16.0") < server.metric("gpt2_batch_size_count"), "batches above 16"
    assert server.metric("gpt2_prefix_cache_hit_tokens_total") > 0
    assert server.metric("gpt2_prefill_chunks_total") > server.metric("gpt2_queue_seconds_count"), "prompts were split"
    assert server.metric("gpt2_requests_total", route="/generate_stream", outcome="aborted") > 0


def test_it_does_not_matter_what_was_asked_before(start):
    """Slots keep what earlier requests left in them, and prompts are taken up from there: the answer is that of a fresh server."""
    requests = [request for request in watched_requests() if "420" in request[0] and "n" not in request[2]]
    used = start(max_running=2, threads=2)
    asyncio.run(among_neighbours(used.url, requests, num_neighbours=2, num_at_once=2))
    again = asyncio.run(among_neighbours(used.url, requests[::-1], num_neighbours=0, num_at_once=1))
    assert used.metric("gpt2_prefix_cache_hit_tokens_total") > 0
    for request in requests:
        fresh = start(max_running=2, threads=2)
        assert asyncio.run(among_neighbours(fresh.url, [request], 0, 1)) == {request[0]: again[request[0]]}
        assert fresh.metric("gpt2_prefix_cache_hit_tokens_total") == 0


def test_a_prompt_that_is_split_over_steps_is_computed_as_if_it_were_not(start):
    """With a small budget the chunks of a prompt run in steps of their own, with a large one all in a few steps with others."""
    requests = [request for request in watched_requests() if "270" in request[0] or "420" in request[0]]
    answers = []
    for budget in (1, 2048):
        server = start(max_batch_tokens=budget, threads=2)
        answers.append(asyncio.run(among_neighbours(server.url, requests, num_neighbours=2, num_at_once=4)))
        assert server.metric("gpt2_prefill_chunks_total") > len(requests)
    assert answers[0] == answers[1]
