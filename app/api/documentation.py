"""What the OpenAPI document says of answers: their types, the statuses that can come, and the errors' form in each dialect."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel

from app.schemas.answers import NativeError, OpenAIError
from app.sse import EventStream

Responses = dict[int | str, dict[str, Any]]  # as FastAPI has it

MEANINGS = {
    400: "Something in the request is wrong; the message names the field, its value and the limit.",
    401: "There is no valid API key.",
    404: "There is no such model, or nothing that inspects here.",
    413: "The body is larger than what is read.",
    422: "Something in the request is wrong; the message names the field, its value and the limit.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The engine failed on this request, or something broke; the message has the request's id.",
    503: "Not ready, or shutting down; Retry-After says when to come back.",
    504: "The request's own timeout_seconds passed.",
}
STRING = {"type": "string"}
# Of one event, as OpenAPI 3.2 writes it; readers of 3.1 pass over it.
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
WAIT = {"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}}
GENERATION_STATUSES = (413, 429, 500, 503, 504)


def native_errors(*statuses: int) -> Responses:
    return _errors(NativeError, statuses)


def openai_errors(*statuses: int) -> Responses:
    return _errors(OpenAIError, statuses)


def answer(model: Any, description: str, stream_example: str | None = None) -> Responses:  # a model, or a list of one
    """A 200 with this schema; with an example of an event, a stream of them is the other form of it."""
    stream = {EventStream.media_type: {"itemSchema": EVENT, "example": stream_example}}
    return {200: {"model": model, "description": description, "content": stream if stream_example else {}}}


def event_stream(description: str, example: str) -> Responses:
    """A 200 that is always a stream; like any that is no JSON, of a route with `response_class=Response`."""
    return {200: {"description": description, "content": {EventStream.media_type: {"itemSchema": EVENT, "example": example}}}}


def text(description: str, media_type: str, example: str) -> Responses:
    """A 200 that is no JSON. The route needs `response_class=Response`, or FastAPI gives it another type as well."""
    return {200: {"description": description, "content": {media_type: {"schema": STRING, "example": example}}}}


def with_keys(document: dict[str, Any], open_paths: Collection[str]) -> dict[str, Any]:
    """A document of a service that asks for an API key, but for `GET` of these paths."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method != "get" or path not in open_paths:
                form = "OpenAIError" if path.startswith("/v1/") else "NativeError"
                content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{form}"}}}
                operation["security"] = [{"key": []}]
                operation["responses"]["401"] = {"description": MEANINGS[401], "content": content}
                if method == "post":  # a key may have as many under way as it may
                    operation["responses"].setdefault("429", {"description": MEANINGS[429], "content": content})
    return document


def _errors(model: type[BaseModel], statuses: tuple[int, ...]) -> Responses:
    return {
        status: {"model": model, "description": MEANINGS[status], "headers": WAIT if status in (429, 503) else {}}
        for status in statuses
    }
