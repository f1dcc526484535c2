"""OpenAI's dialect: /v1/completions and /v1/models."""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from app.api.body import documented, json_body
from app.api.outputs import framed, outputs
from app.api.responses import JSON, generation_headers, timing_headers
from app.engine.sequence import FinishReason
from app.errors import NotFound, openai_error
from app.generation import Generation, TextGenerator, TextToken
from app.info import ServiceInfo
from app.schemas import CompletionRequest
from app.sse import DONE, EventStream, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Body = Annotated[CompletionRequest, Depends(json_body(CompletionRequest))]


@router.post("/completions", openapi_extra=documented(CompletionRequest))
async def completions(request: Request, body: Body) -> Response:
    """Continue a prompt as OpenAI's completions do; `"stream": true` streams chunks, then `[DONE]`."""
    generator: TextGenerator = request.app.state.generator
    generation = await generator.start(body.generation())
    batches = outputs(request, generation)
    head = _head(request)
    if body.stream:
        first = await anext(batches)
        return EventStream(_chunks(request, body, generation, head, first, batches), batches, generation_headers(generation))
    async for _ in batches:
        pass
    answer = head | {"choices": [_choice(generation.text, generation)], "usage": _usage(generation)}
    return JSON(answer, headers=generation_headers(generation) | timing_headers(generation))


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


async def _chunks(
    request: Request,
    body: CompletionRequest,
    generation: Generation,
    head: dict[str, Any],
    first: list[TextToken],
    batches: AsyncGenerator[list[TextToken], None],
) -> AsyncGenerator[bytes, None]:
    def frame(index: int, token: TextToken, finished: Generation | None) -> bytes:
        return event(head | {"choices": [_choice(token.text, finished)]})

    async for chunk in framed(request, generation, first, batches, frame, lambda error: event(openai_error(error))):
        yield chunk
    if generation.finish_reason is not None and body.stream_options and body.stream_options.include_usage:
        yield event(head | {"choices": [], "usage": _usage(generation)})
    yield DONE


def _head(request: Request) -> dict[str, Any]:
    info: ServiceInfo = request.app.state.info
    created = int(time.time())
    return {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": created, "model": info.model_id}


def _choice(text: str, finished: Generation | None) -> dict[str, Any]:
    reason = None
    if finished is not None:
        reason = "length" if finished.finish_reason is FinishReason.LENGTH else "stop"
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _usage(generation: Generation) -> dict[str, Any]:
    num_prompt, num_generated = len(generation.prompt_ids), generation.num_generated
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": generation.num_reused},
    }


def _model(info: ServiceInfo) -> dict[str, Any]:
    return {"id": info.model_id, "object": "model", "created": info.created, "owned_by": "gpt2-service"}
