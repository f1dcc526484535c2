"""OpenAI's dialect: /v1/completions and /v1/models."""

import itertools
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.choices import Choices
from app.api.documentation import GENERATION_STATUSES, answer, openai_errors
from app.api.outputs import all_tokens, framed, in_time, outputs
from app.api.responses import JSON, Json, choice_framer, generation_headers, generation_usage, openai_head, timing_headers
from app.errors import NotFound, openai_error
from app.generation import Generation, TextGenerator, off_loop
from app.info import ServiceInfo
from app.sample import TextToken
from app.schemas.answers import CompletionAnswer, Model, Models
from app.schemas.openai import CompletionRequest
from app.sse import DONE, EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])
CHUNK = (
    'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"gpt2",'
    '"choices":[{"index":0,"text":" the","logprobs":null,"finish_reason":null}]}\n\n'
)
ANSWERS = answer(CompletionAnswer, "The choices, or with `stream` chunks of them, then `[DONE]`.", CHUNK) | openai_errors(
    400, *GENERATION_STATUSES
)
# By hand: for a parameter that FastAPI sees it documents a 422 that never comes.
MODEL_ID = {"parameters": [{"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}]}
Body = Annotated[CompletionRequest, Depends(json_body(CompletionRequest))]


@router.post("/completions", openapi_extra=documented(CompletionRequest), responses=ANSWERS)
async def completions(request: Request, body: Body) -> Response:
    """Continue a prompt as OpenAI's completions do; `"stream": true` streams chunks, then `[DONE]`."""
    return await (_stream if body.stream else _answer)(request, body)


@router.get("/models", responses=answer(Models, "A list of one."))
async def models(request: Request) -> Response:
    """The one model that is served."""
    return JSON({"object": "list", "data": [_model(request.app.state.info)]})


@router.get("/models/{model_id:path}", openapi_extra=MODEL_ID, responses=answer(Model, "The model.") | openai_errors(404))
async def model(request: Request) -> Response:
    """The same by its name."""
    info: ServiceInfo = request.app.state.info
    model_id: str = request.path_params["model_id"]
    if model_id != info.model_id:
        raise NotFound(f"there is no model {model_id!r:.80}; this server has {info.model_id!r}")
    return JSON(_model(info))


async def _answer(request: Request, body: CompletionRequest) -> Response:
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    tokens = await all_tokens(request, generation)
    of_each_prompt = [generation.samples_of(i, body.is_ranked)[: body.num_wanted] for i in range(len(generation.prompts))]
    samples = list(itertools.chain.from_iterable(of_each_prompt))
    written = Choices(body, generation)

    def answer() -> Response:
        choices = [written.whole(i, sample, tokens[sample.index]) for i, sample in enumerate(samples)]
        headers = generation_headers(generation, samples[0]) | timing_headers(generation)
        return JSON(_head(request) | {"choices": choices, "usage": generation_usage(generation)}, headers=headers)

    return await in_time(generation, generation.writing_size, answer)


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
    framed_choice = choice_framer(head)

    def frame(token: TextToken) -> bytes:
        chunk = framed_choice(choices.chunk(token))
        opens = token.number == 1 and choices.have_opening
        return framed_choice(choices.opening(generation.samples[token.sample])) + chunk if opens else chunk

    async def prepare(batch: list[TextToken]) -> None:
        """A prompt, which may have thousands of log-probabilities, is told with its sample's first token: they are there then."""
        if opening := [generation.samples[token.sample] for token in batch if token.number == 1]:
            await off_loop(generation.writing_size, lambda: [choices.opening(sample) for sample in opening])

    prepares = prepare if choices.have_opening else None
    async for chunk in framed(request, generation, first, batches, frame, lambda error: event(openai_error(error)), prepares):
        yield chunk
    if generation.is_finished:
        if not generation.request.max_new_tokens:
            yield b"".join([framed_choice(choices.opening(sample)) for sample in generation.samples])
        if body.tells_usage:
            yield event(head | {"choices": [], "usage": generation_usage(generation)})
    yield DONE


def _head(request: Request) -> Json:
    return openai_head(request, "cmpl", "text_completion")


def _model(info: ServiceInfo) -> dict[str, Any]:
    """As OpenAI has it, with vLLM's max_model_len, by which clients cut their prompts."""
    fixed = {"object": "model", "owned_by": "gpt2-service"}
    return {"id": info.model_id, "created": info.created, "max_model_len": info.max_total_tokens} | fixed
