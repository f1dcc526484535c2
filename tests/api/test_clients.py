"""The clients that people have: `openai` and huggingface_hub's InferenceClient, unchanged."""

import huggingface_hub
import openai
import pytest
from huggingface_hub import InferenceClient


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def hub_client(server):
    return InferenceClient(base_url=server.url, timeout=60)


def test_openai_completes(openai_client):
    answer = openai_client.completions.create(model="gpt2", prompt="The old man", max_tokens=6, seed=1)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 6


def test_openai_streams_what_it_completes(openai_client):
    wanted = {"model": "gpt2", "prompt": "The old man", "max_tokens": 12, "seed": 1, "temperature": 1.5}
    whole = openai_client.completions.create(**wanted)
    with openai_client.completions.create(**wanted, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_openai_gets_several_choices_and_the_best(openai_client):
    wanted = {"model": "gpt2", "prompt": "The old man", "max_tokens": 6, "seed": 1}
    answer = openai_client.completions.create(**wanted, n=3, logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    best = max(answer.choices, key=lambda choice: sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens))
    assert openai_client.completions.create(**wanted, best_of=3).choices[0].text == best.text
    with openai_client.completions.create(**wanted, n=3, stream=True) as stream:
        texts = ["", "", ""]
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


def test_openai_scores_a_prompt_as_evaluation_harnesses_do(openai_client):
    """Whether each token of the prompt is the likeliest is read from the top's maximum."""
    answer = openai_client.completions.create(model="gpt2", prompt="The old man", max_tokens=0, echo=True, logprobs=1)
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text == "The old man"
    assert logprobs.token_logprobs[0] is None
    for logprob, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
        assert logprob <= max(top.values())
        assert 1 <= len(top) <= 2


def test_openai_lists_the_models(openai_client):
    assert [model.id for model in openai_client.models.list()] == ["tiny-gpt2"]
    assert openai_client.models.retrieve("tiny-gpt2").id == "tiny-gpt2"


def test_openai_raises_its_own_errors(openai_client):
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        openai_client.completions.create(model="gpt2", prompt="a", temperature=3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("gpt-5")


def test_openai_sees_a_failure_in_a_stream(openai_client, stepped_server):
    server, runner = stepped_server()
    runner.let_through(2)
    with openai_client.with_options(base_url=server.url + "/v1") as client:
        stream = client.completions.create(model="gpt2", prompt="a", stream=True, extra_body={"ignore_eos": True})
        next(stream)
        runner.failures.append(RuntimeError("the third step breaks"))
        runner.open()
        with pytest.raises(openai.APIError, match="the step failed: RuntimeError"):
            list(stream)


def test_the_hub_client_generates_text(hub_client, generate):
    assert hub_client.text_generation("The old man", max_new_tokens=6) == generate(max_new_tokens=6)["generated_text"]


def test_the_hub_client_gets_details(hub_client):
    answer = hub_client.text_generation("The old man", max_new_tokens=6, details=True, do_sample=True, seed=3)
    assert answer.details.finish_reason == "length"
    assert answer.details.generated_tokens == len(answer.details.tokens) == 6
    assert answer.details.seed == 3
    assert "".join(token.text for token in answer.details.tokens) == answer.generated_text


def test_the_hub_client_gets_the_prompts_log_probabilities_and_the_others_of_the_best(hub_client):
    answer = hub_client.text_generation(
        "The old man", max_new_tokens=4, details=True, do_sample=True, seed=3, best_of=3, top_n_tokens=2, decoder_input_details=True
    )
    details = answer.details
    assert "".join(token.text for token in details.prefill) == "The old man"
    assert details.prefill[0].logprob is None
    assert [len(top) for top in details.top_tokens] == [2] * len(details.tokens)
    assert len(details.best_of_sequences) == 2
    for other in details.best_of_sequences:
        assert "".join(token.text for token in other.tokens) == other.generated_text


def test_the_hub_client_streams(hub_client):
    wanted = {"max_new_tokens": 8, "temperature": 1.5, "top_p": 0.9, "seed": 3}
    whole = hub_client.text_generation("The old man", **wanted)
    assert "".join(hub_client.text_generation("The old man", stream=True, **wanted)) == whole
    events = list(hub_client.text_generation("The old man", stream=True, details=True, **wanted))
    assert [event.index for event in events] == list(range(1, 9))
    assert events[-1].generated_text == whole
    assert events[-1].details.finish_reason == "length"
    assert events[-1].details.input_length == 5


def test_the_hub_clients_stop_strings_work(hub_client):
    whole = hub_client.text_generation("The old man", max_new_tokens=20)
    assert hub_client.text_generation("The old man", max_new_tokens=20, stop=[whole[5:8]]) == whole[: whole.index(whole[5:8])]


def test_the_hub_client_raises_its_own_errors(hub_client):
    with pytest.raises(huggingface_hub.errors.ValidationError, match="the prompt has"):
        hub_client.text_generation("the sea " * 2000, max_new_tokens=2)
