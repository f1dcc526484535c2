"""The native dialect, a superset of text-generation-inference's: /generate, /generate_stream and /."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.outputs import framed, outputs
from app.api.responses import JSON, generation_headers, timing_headers
from app.errors import ServiceError, native_error
from app.generation import Generation, TextGenerator, TextToken
from app.schemas import GenerateRequest
from app.sse import EventStream, event

router = APIRouter(tags=["native"])
Body = Annotated[GenerateRequest, Depends(json_body(GenerateRequest))]
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text, or a stream of events, one a token, of which the last carries the text.",
        "content": {
            "application/json": {"example": {"generated_text": " said nothing."}},
            "text/event-stream": {
                "example": 'data: {"index":1,"token":{"id":262,"text":" the","logprob":-1.2,"special":false},'
                '"generated_text":null,"details":null}'
            },
        },
    },
    422: {"description": "Something in the request is wrong; the message names the field, its value and the limit."},
    429: {"description": "The queue is full; Retry-After says when to come back."},
    503: {"description": "Not ready, or shutting down."},
}


@router.post("/generate", openapi_extra=documented(GenerateRequest), responses=ANSWERS)
async def generate(request: Request, body: Body) -> Response:
    """Continue a prompt; `"stream": true` streams the tokens."""
    return await (_stream if body.stream else _answer)(request, body)


@router.post("/generate_stream", openapi_extra=documented(GenerateRequest), responses=ANSWERS)
async def generate_stream(request: Request, body: Body) -> Response:
    """The same, always streamed."""
    return await _stream(request, body)


@router.post("/", openapi_extra=documented(GenerateRequest), responses=ANSWERS)
async def compat(request: Request, body: Body) -> Response:
    """What huggingface_hub's InferenceClient calls: like /generate, but the answer is a list of one."""
    return await _stream(request, body) if body.stream else await _answer(request, body, as_list=True)


async def _answer(request: Request, body: GenerateRequest, as_list: bool = False) -> Response:
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    tokens = [token async for batch in outputs(request, generation) for token in batch]
    answer: dict[str, Any] = {"generated_text": _full_text(body, generation)}
    if body.options.details:
        answer["details"] = {
            **_details(body, generation),
            "prefill": [],
            "tokens": [_token(token) for token in tokens],
        }
    return JSON([answer] if as_list else answer, headers=generation_headers(generation) | timing_headers(generation))


async def _stream(request: Request, body: GenerateRequest) -> Response:
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    batches = outputs(request, generation)
    first = await anext(batches)  # what fails before the first token is answered with its own status
    frame = partial(_event, body)
    return EventStream(framed(request, generation, first, batches, frame, _error_event), batches, generation_headers(generation))


def _event(body: GenerateRequest, index: int, token: TextToken, finished: Generation | None) -> bytes:
    text = None if finished is None else _full_text(body, finished)
    details = None if finished is None else _details(body, finished)
    return event({"index": index, "token": _token(token), "generated_text": text, "details": details})


def _error_event(error: ServiceError) -> bytes:
    return event(native_error(error))


def _token(token: TextToken) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _full_text(body: GenerateRequest, generation: Generation) -> str:
    return body.text + generation.text if body.options.return_full_text else generation.text


def _details(body: GenerateRequest, generation: Generation) -> dict[str, Any]:
    details = {
        "finish_reason": generation.finish_reason,
        "generated_tokens": generation.num_generated,
        "input_length": len(generation.prompt_ids),
        "seed": generation.request.sampling.seed,
    }
    if generation.request.max_new_tokens > generation.max_new_tokens:
        details["max_new_tokens"] = generation.max_new_tokens  # the context has no room for more
    return details
