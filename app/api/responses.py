"""JSON answers, errors among them, and the headers that go with a generation."""

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from app.billing import Bill
from app.errors import Draining, InvalidRequest, ServiceError, native_error, openai_error
from app.generation import Generation
from app.info import ServiceInfo
from app.sample import Sample

if TYPE_CHECKING:
    from app.tracing import RequestSpan

Json = dict[str, Any]


class JSON(Response):
    """orjson's output: a tenth of the time that the standard library takes for a long list of tokens."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # any JSON value
        return orjson.dumps(content)


def error_response(scope: Scope, error: ServiceError) -> Response:
    """An error in the dialect of the path; why it is turned away, if it is, is left with the request for the metrics."""
    scope["state"]["reason"] = error.reason
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if isinstance(error, Draining):
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if scope["path"].startswith("/v1/"):  # not a request's url's, which an odd Host header may change
        status = 400 if isinstance(error, InvalidRequest) and error.status == 422 else error.status
        return JSON(openai_error(error), status, headers)
    return JSON(native_error(error), error.status, headers)


def openai_head(request: Request, prefix: str, kind: str) -> Json:
    """What an answer under /v1 begins with, and each chunk of one."""
    info: ServiceInfo = request.app.state.info
    answer_id = f"{prefix}-{uuid.uuid4().hex}"
    span: RequestSpan | None = request.scope["state"].get("span")
    if span is not None:
        span.set("gen_ai.response.id", answer_id)
    return {
        "id": answer_id,
        "object": kind,
        "created": int(time.time()),
        "model": info.model_id,
        "system_fingerprint": info.fingerprint,
    }


def choice_framer(head: Json) -> Callable[[Json], bytes]:
    """What makes a chunk of a choice. All else in a chunk is the same in every one, and written once."""
    before, after = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[', b"]}\n\n"
    return lambda choice: before + orjson.dumps(choice) + after


def generation_usage(generation: Generation) -> Json:
    bill = generation.bill if generation.request.tells_cost else None
    return usage(generation.num_prompt, generation.num_generated, generation.num_reused, bill)


def usage(num_prompt: int, num_generated: int, num_reused: int, bill: Bill | None) -> Json:
    """The tokens of a request, as OpenAI's clients read them, and what it cost, if that is asked for."""
    tokens = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": num_reused},
    }
    return tokens if bill is None else tokens | {"cost": asdict(bill)}


def generation_headers(generation: Generation, first: Sample) -> dict[str, str]:
    """What is known before the first token, but for which sample is told first: the seed is that one's."""
    return {"x-seed": str(first.seed), "x-prompt-tokens": str(generation.num_prompt)}


def timing_headers(generation: Generation) -> dict[str, str]:
    """What is known after the last one, times in milliseconds; the tokens are those of all samples."""
    queue, total = generation.timings.queue_seconds, generation.timings.total_seconds
    milliseconds = {
        "x-total-time": total,
        "x-queue-time": queue,
        "x-inference-time": total - queue,
        "x-time-per-token": (total - queue) / max(generation.num_generated, 1),
    }
    headers = {name: f"{1000 * seconds:.3f}" for name, seconds in milliseconds.items()}
    return headers | {"x-generated-tokens": str(generation.num_generated)}
