"""The native dialect, a superset of text-generation-inference's: /generate, /generate_stream and /."""

from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.documentation import GENERATION_STATUSES, answer, event_stream, native_errors
from app.api.outputs import all_tokens, framed, in_time, outputs
from app.api.responses import JSON, generation_headers, timing_headers
from app.errors import InvalidRequest, ServiceError, native_error
from app.generation import Generation, TextGenerator, off_loop
from app.sample import Sample, TextToken
from app.schemas.answers import GenerateAnswer
from app.schemas.native import GenerateParameters, GenerateRequest
from app.sse import EventStream, event
from model.batch import Top
from model.tokenizer import Tokenizer

router = APIRouter(tags=["native"])
Body = Annotated[GenerateRequest, Depends(json_body(GenerateRequest))]
EVENT = 'data: {"index":1,"token":{"id":262,"text":" the","logprob":-1.2,"special":false},"generated_text":null,"details":null}\n\n'
PLAIN_EVENT = b'data: {"index":%d,"token":{"id":%d,"text":%b,"logprob":%b,"special":%b},"generated_text":null,"details":null}\n\n'
TOLD = "The text, or with `stream` events, one a token, of which the last carries the text."
ANSWERS = answer(GenerateAnswer, TOLD, EVENT) | native_errors(422, *GENERATION_STATUSES)
STREAM = ANSWERS | event_stream("Events, one a token, of which the last carries the text.", EVENT)
LIST = ANSWERS | answer(list[GenerateAnswer], TOLD, EVENT)


@router.post("/generate", openapi_extra=documented(GenerateRequest), responses=ANSWERS)
async def generate(request: Request, body: Body) -> Response:
    """Continue a prompt; `"stream": true` streams the tokens."""
    return await (_stream if body.stream else _answer)(request, body)


@router.post("/generate_stream", openapi_extra=documented(GenerateRequest), response_class=Response, responses=STREAM)
async def generate_stream(request: Request, body: Body) -> Response:
    """The same, always streamed."""
    return await _stream(request, body)


@router.post("/", openapi_extra=documented(GenerateRequest), responses=LIST)
async def compat(request: Request, body: Body) -> Response:
    """What huggingface_hub's InferenceClient calls: like /generate, but the answer is a list of one."""
    return await _stream(request, body) if body.stream else await _answer(request, body, as_list=True)


async def _start(generator: TextGenerator, body: GenerateRequest) -> Generation:
    """Token ids can be checked only here; a fault is told by the field's place in this dialect."""
    try:
        return await generator.start(body.generation())
    except InvalidRequest as error:
        if error.param in GenerateParameters.model_fields:
            raise InvalidRequest(f"parameters.{error}", param=f"parameters.{error.param}") from None
        raise


async def _answer(request: Request, body: GenerateRequest, as_list: bool = False) -> Response:
    generator: TextGenerator = request.app.state.generator
    generation = await _start(generator, body)
    tokens = await all_tokens(request, generation)
    samples = generation.samples_of(0, ranked=body.options.is_ranked)
    headers = generation_headers(generation, samples[0]) | timing_headers(generation)

    def answer() -> Response:
        written = _written(body, generation, samples, tokens)
        return JSON([written] if as_list else written, headers=headers)

    return await in_time(generation, generation.writing_size, answer)


def _written(body: GenerateRequest, generation: Generation, samples: list[Sample], tokens: list[list[TextToken]]) -> dict[str, Any]:
    """A whole answer of samples in this order; `tokens` are each sample's, by its index."""
    options = body.options
    answer: dict[str, Any] = {"generated_text": _full_text(body, generation, samples[0])}
    if options.tells_details:
        prefill = _prefill(generation) if options.decoder_input_details else []
        told = [(s, _all_details(generation, s, tokens[s.index], prefill)) for s in samples[: options.num_returned]]
        answer["details"] = told[0][1]
        if len(told) > 1:
            others = [{"generated_text": _full_text(body, generation, sample), **details} for sample, details in told[1:]]
            answer["details"]["best_of_sequences"] = others
        if options.cost:
            answer["details"]["cost"] = asdict(generation.bill)
    return answer


async def _stream(request: Request, body: GenerateRequest) -> Response:
    body.options.check_streamable()
    generator: TextGenerator = request.app.state.generator
    generation = await _start(generator, body)
    batches = outputs(request, generation)
    first = await anext(batches)  # what fails before the first token is answered with its own status
    prefill = cache(lambda: _prefill(generation))

    async def prepare(batch: list[TextToken]) -> None:
        if any(token.finish_reason is not None for token in batch):
            await off_loop(generation.writing_size, prefill)

    prepares = prepare if body.options.decoder_input_details else None
    events = framed(request, generation, first, batches, _framer(body, generation, prefill), _error_event, prepares)
    return EventStream(events, batches, generation_headers(generation, generation.samples[0]))


def _framer(
    body: GenerateRequest, generation: Generation, prefill: Callable[[], list[dict[str, Any]]]
) -> Callable[[TextToken], bytes]:
    """What makes a token's event; the last one of each sample carries its text and its details, the last of all the cost."""
    tells_top, tells_sample = bool(generation.request.top_n), len(generation.samples) > 1
    is_plain = not (tells_top or tells_sample)
    open_samples = {sample.index for sample in generation.samples}

    def frame(token: TextToken) -> bytes:
        if is_plain and token.finish_reason is None:
            return _plain_event(token)
        data: dict[str, Any] = {"index": token.number, "token": _token(token), "generated_text": None, "details": None}
        if tells_top:
            data["top_tokens"] = _top_tokens(generation.generator.tokenizer, token.top)
        if tells_sample:
            data["sample"] = token.sample
        if token.finish_reason is not None:
            sample = generation.samples[token.sample]
            data["generated_text"], data["details"] = _full_text(body, generation, sample), _details(generation, sample)
            if body.options.decoder_input_details:
                data["details"]["prefill"] = prefill()
            open_samples.discard(token.sample)
            if body.options.cost and not open_samples:
                data["details"]["cost"] = asdict(generation.bill)
        return event(data)

    return frame


def _plain_event(token: TextToken) -> bytes:
    """What most events of most streams are, in two thirds of the time that a dictionary takes."""
    text, logprob, special = orjson.dumps(token.text), orjson.dumps(token.logprob), b"true" if token.special else b"false"
    return PLAIN_EVENT % (token.number, token.id, text, logprob, special)


def _error_event(error: ServiceError) -> bytes:
    return event(native_error(error))


def _token(token: TextToken) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _top_tokens(tokenizer: Tokenizer, top: Top) -> list[dict[str, Any]]:
    return [
        {"id": token_id, "text": tokenizer.decode([token_id]), "logprob": logprob, "special": tokenizer.is_special(token_id)}
        for token_id, logprob in top
    ]


def _prefill(generation: Generation) -> list[dict[str, Any]]:
    tokens = generation.prompts[0].tokens(generation.generator.tokenizer)
    return [{"id": token.id, "text": token.text, "logprob": token.logprob} for token in tokens]


def _full_text(body: GenerateRequest, generation: Generation, sample: Sample) -> str:
    if not body.options.return_full_text:
        return sample.text
    return generation.prompts[0].text(generation.generator.tokenizer) + sample.text


def _details(generation: Generation, sample: Sample) -> dict[str, Any]:
    details: dict[str, Any] = {
        "finish_reason": sample.finish_reason,
        "generated_tokens": sample.num_generated,
        "input_length": generation.num_prompt,
        "seed": sample.seed,
    }
    if generation.request.max_new_tokens > (room := generation.prompts[0].max_new_tokens):
        details["max_new_tokens"] = room  # the context has no room for more
    return details


def _all_details(generation: Generation, sample: Sample, tokens: list[TextToken], prefill: list[dict[str, Any]]) -> dict[str, Any]:
    details = _details(generation, sample) | {"prefill": prefill, "tokens": [_token(token) for token in tokens]}
    if generation.request.top_n:
        details["top_tokens"] = [_top_tokens(generation.generator.tokenizer, token.top) for token in tokens]
    return details
