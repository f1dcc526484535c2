"""OpenAI's dialect: /v1/completions and /v1/models."""

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.choices import Choices, Json
from app.api.outputs import all_tokens, framed, outputs
from app.api.responses import JSON, generation_headers, timing_headers, usage
from app.errors import NotFound, openai_error
from app.generation import Generation, TextGenerator, off_loop
from app.info import ServiceInfo
from app.sample import TextToken
from app.schemas.openai import CompletionRequest
from app.sse import DONE, EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Body = Annotated[CompletionRequest, Depends(json_body(CompletionRequest))]


@router.post("/completions", openapi_extra=documented(CompletionRequest))
async def completions(request: Request, body: Body) -> Response:
    """Continue a prompt as OpenAI's completions do; `"stream": true` streams chunks, then `[DONE]`."""
    return await (_stream if body.stream else _answer)(request, body)


@router.get("/models")
async def models(request: Request) -> Response:
    """The one model that is served."""
    return JSON({"object": "list", "data": [_model(request.app.state.info)]})


@router.get("/models/{model_id:path}")
async def model(request: Request, model_id: str) -> Response:
    info: ServiceInfo = request.app.state.info
    if model_id != info.model_id:
        raise NotFound(f"there is no model {model_id!r:.80}; this server has {info.model_id!r}")
    return JSON(_model(info))


async def _answer(request: Request, body: CompletionRequest) -> Response:
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    tokens = await all_tokens(request, generation)
    samples = generation.ranked_samples() if body.is_ranked else generation.samples
    written = Choices(body, generation)

    def answer() -> Response:
        choices = [written.whole(i, sample, tokens[sample.index]) for i, sample in enumerate(samples[: body.num_wanted])]
        headers = generation_headers(generation, samples[0]) | timing_headers(generation)
        return JSON(_head(request) | {"choices": choices, "usage": _usage(generation)}, headers=headers)

    return await off_loop(generation.writing_size, answer)


async def _stream(request: Request, body: CompletionRequest) -> Response:
    body.check_streamable()
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    batches = outputs(request, generation)
    first = await anext(batches)  # what fails before the first token is answered with its own status
    return EventStream(
        _chunks(request, body, generation, first, batches), batches, generation_headers(generation, generation.samples[0])
    )


async def _chunks(
    request: Request,
    body: CompletionRequest,
    generation: Generation,
    first: list[TextToken],
    batches: AsyncGenerator[list[TextToken], None],
) -> AsyncGenerator[bytes, None]:
    head, choices = _head(request), Choices(body, generation)
    framed_choice = _framer(head)

    def frame(token: TextToken) -> bytes:
        chunk = framed_choice(choices.chunk(token))
        opens = token.number == 1 and choices.have_opening
        return framed_choice(choices.opening(generation.samples[token.sample])) + chunk if opens else chunk

    if choices.have_opening:  # its prompt may have thousands of log-probabilities
        await off_loop(generation.writing_size, lambda: choices.opening(generation.samples[0]))
    async for chunk in framed(request, generation, first, batches, frame, lambda error: event(openai_error(error))):
        yield chunk
    if generation.is_finished:
        if not generation.max_new_tokens:
            yield b"".join([framed_choice(choices.opening(sample)) for sample in generation.samples])
        if body.stream_options and body.stream_options.include_usage:
            yield event(head | {"choices": [], "usage": _usage(generation)})
    yield DONE


def _framer(head: Json) -> Callable[[Json], bytes]:
    """What makes a chunk of a choice. All else in a chunk is the same in every one, and written once."""
    before, after = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[', b"]}\n\n"
    return lambda choice: before + orjson.dumps(choice) + after


def _head(request: Request) -> Json:
    info: ServiceInfo = request.app.state.info
    created = int(time.time())
    return {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": created, "model": info.model_id}


def _usage(generation: Generation) -> Json:
    return usage(len(generation.prompt_ids), generation.num_generated, generation.num_reused)


def _model(info: ServiceInfo) -> dict[str, Any]:
    return {"id": info.model_id, "object": "model", "created": info.created, "owned_by": "gpt2-service"}
