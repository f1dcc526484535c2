"""openai's Python client: completions and chat, sync and async, streamed and whole, its errors and its own retries."""

import asyncio
import threading

import httpx
import openai
import pytest

PROMPT = "The old man"
WANTED = {"model": "gpt2", "prompt": PROMPT, "max_tokens": 12, "seed": 1, "temperature": 1.5}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
ASKED = {"model": "gpt2", "messages": MESSAGES, "max_tokens": 12, "seed": 1}


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=service.v1, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def in_async_client(service, body):
    """What `body(client)` returns, awaited with an AsyncOpenAI."""

    async def run():
        async with openai.AsyncOpenAI(base_url=service.v1, api_key="none", max_retries=0, timeout=60) as client:
            return await body(client)

    return asyncio.run(run())


def test_it_completes(client, service):
    answer = client.completions.create(**WANTED)
    assert answer.choices[0].text == service.completed(PROMPT, max_tokens=12, seed=1, temperature=1.5)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 12, 15)
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_it_streams_what_it_completes(client):
    whole = client.completions.create(**WANTED)
    with client.completions.create(**WANTED, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_asynchronous_client_completes_and_streams_the_same(client, service):
    async def both(asynchronous):
        whole = await asynchronous.completions.create(**WANTED)
        stream = await asynchronous.completions.create(**WANTED, stream=True)
        return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in stream])

    assert set(in_async_client(service, both)) == {client.completions.create(**WANTED).choices[0].text}


def test_the_asynchronous_client_asks_many_things_at_once(client, service):
    async def many(asynchronous):
        wanted = [WANTED | {"seed": seed} for seed in range(20)]
        answers = await asyncio.gather(*(asynchronous.completions.create(**fields) for fields in wanted))
        return [answer.choices[0].text for answer in answers]

    texts = in_async_client(service, many)
    assert texts == [client.completions.create(**WANTED | {"seed": seed}).choices[0].text for seed in range(20)]


def test_a_prompt_may_be_a_list_of_texts_or_token_ids_or_lists_of_them(client, service):
    prompts = [PROMPT, "Once upon a time there was"]
    ids = [[token["id"] for token in service.post("/tokenize", {"inputs": prompt})] for prompt in prompts]
    greedy = {"model": "gpt2", "max_tokens": 6, "temperature": 0}
    texts = [service.completed(prompt, max_tokens=6, temperature=0) for prompt in prompts]
    for prompt, wanted in ((prompts, texts), (ids, texts), (ids[0], texts[:1])):
        answer = client.completions.create(prompt=prompt, **greedy)
        assert [choice.text for choice in answer.choices] == wanted
        assert [choice.index for choice in answer.choices] == list(range(len(wanted)))


def test_several_choices_of_several_prompts_come_in_order(client):
    wanted = {"model": "gpt2", "max_tokens": 4, "seed": 1, "temperature": 1.0, "n": 2}
    together = client.completions.create(prompt=[PROMPT, "A young girl"], **wanted)
    apart = [client.completions.create(prompt=prompt, **wanted) for prompt in (PROMPT, "A young girl")]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [choice.text for answer in apart for choice in answer.choices]


def test_several_choices_stream_side_by_side(client):
    whole = client.completions.create(**WANTED, n=3)
    texts = ["", "", ""]
    for chunk in client.completions.create(**WANTED, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_the_best_of_several_is_the_likeliest_a_token(client):
    answer = client.completions.create(**WANTED, n=3, logprobs=2)
    best = max(answer.choices, key=lambda choice: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens))
    assert client.completions.create(**WANTED, best_of=3).choices[0].text == best.text


def test_it_scores_a_prompt_without_writing(client):
    (choice,) = client.completions.create(model="gpt2", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1).choices
    assert "".join(choice.logprobs.tokens) == choice.text == PROMPT
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.text_offset[0] == 0
    for logprob, top in zip(choice.logprobs.token_logprobs[1:], choice.logprobs.top_logprobs[1:], strict=True):
        assert logprob <= max(top.values())


def test_stop_strings_end_a_text_before_them(client):
    whole = client.completions.create(model="gpt2", prompt=PROMPT, max_tokens=20, temperature=0).choices[0].text
    stop = whole[5:8]
    choice = client.completions.create(model="gpt2", prompt=PROMPT, max_tokens=20, temperature=0, stop=[stop]).choices[0]
    assert choice.text == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"


def test_a_bias_forbids_and_forces_tokens(client):
    answer = client.completions.create(
        model="gpt2", prompt=PROMPT, max_tokens=3, temperature=0, logit_bias={"262": 100}, logprobs=0
    )
    assert len(set(answer.choices[0].logprobs.tokens)) == 1


def test_it_lists_the_models(client):
    (model,) = client.models.list()
    assert client.models.retrieve(model.id).id == model.id == "talking-gpt2"


def test_it_raises_its_own_errors(client, service):
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.completions.create(model="gpt2", prompt="a", temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model="gpt2", prompt="a", suffix="b")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.completions.create(model="gpt2", prompt="word " * 2000)

    async def refused(asynchronous):
        with pytest.raises(openai.BadRequestError, match="top_p"):
            await asynchronous.completions.create(model="gpt2", prompt="a", top_p=2, stream=True)

    in_async_client(service, refused)


def test_it_waits_and_tries_again_when_the_service_is_full(start_service, checkpoint):
    """One slot and no waiting line, which others keep busy until the client has been refused once."""
    service, refused = start_service(checkpoint, max_running=1, max_waiting=0), threading.Event()
    others = [threading.Thread(target=keep_busy, args=(service, refused)) for _ in range(4)]
    for other in others:
        other.start()
    with client_that_tells_of_refusals(service, refused) as client:
        while not refused.is_set():
            answer = client.completions.create(model="gpt2", prompt=PROMPT, max_tokens=4)
    for other in others:
        other.join()
    assert answer.choices[0].finish_reason == "length"


def keep_busy(service, until):
    while not until.is_set():
        httpx.post(f"{service.v1}/completions", json={"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}, timeout=60)


def client_that_tells_of_refusals(service, refused):
    def note(response):
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            refused.set()

    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    return openai.OpenAI(base_url=service.v1, api_key="none", max_retries=10, http_client=http)


def test_it_chats(client):
    answer = client.chat.completions.create(**ASKED)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_it_chats_as_the_template_has_it(client, service):
    prompt = "system: Be brief.<|endoftext|>user: Who are you?<|endoftext|>assistant:"
    answer = client.chat.completions.create(**ASKED, temperature=0)
    written = service.completed(prompt, max_tokens=12, temperature=0)
    assert answer.choices[0].message.content == written.removeprefix(" ")  # which the template puts there itself


def test_it_streams_a_chat(client, service):
    whole = client.chat.completions.create(**ASKED)
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens

    async def streamed(asynchronous):
        stream = await asynchronous.chat.completions.create(**ASKED, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert in_async_client(service, streamed) == text


def test_its_helper_for_streams_of_chat_builds_the_whole_answer(client):
    """One that ends by itself: a reply that is cut off is an error to this helper."""
    text = client.chat.completions.create(**ASKED).choices[0].message.content
    whole = client.chat.completions.create(**ASKED, stop=text[3:5])
    with client.chat.completions.stream(**ASKED, stop=text[3:5]) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert events
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_chat_has_choices_log_probabilities_and_a_stop(client):
    answer = client.chat.completions.create(**ASKED, n=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
        assert "".join(token.token for token in choice.logprobs.content).strip().startswith(choice.message.content.strip())
    text = answer.choices[0].message.content
    stopped = client.chat.completions.create(**ASKED, stop=text[3:5]).choices[0]
    assert stopped.message.content == text[: text.index(text[3:5])]


def test_a_chat_with_max_completion_tokens_ends_there(client):
    fields = {"model": "gpt2", "messages": MESSAGES, "seed": 1, "extra_body": {"ignore_eos": True}}
    assert client.chat.completions.create(**fields, max_completion_tokens=3).usage.completion_tokens == 3


def test_a_chat_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="gpt2", messages=[])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ASKED, temperature=3)
