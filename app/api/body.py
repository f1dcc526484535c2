"""Reads a request's body: bounded, UTF-8, strict JSON, then the schema. One error says what is wrong, and where."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Never, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.api.faults import invalid, shown
from app.errors import BodyTooLarge, ClientLeft, InvalidRequest
from model.input_files import repeated_key

Body = TypeVar("Body", bound=BaseModel)
ON_LOOP_BYTES = 1 << 16  # take 10 ms at most; a megabyte of numbers takes 150, which the event loop cannot wait for
MAX_DIGITS = 40  # of an integer; the largest field takes 20
MAX_KEYS = 4096  # of an object; the largest takes 1024, and a fault for each of 100,000 would take a second to tell


def json_body(schema: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that gives a handler its parsed body; raises InvalidRequest or BodyTooLarge."""

    async def parse(request: Request) -> Body:
        read = await read_body(request, request.app.state.settings.max_body_bytes)
        if len(read) <= ON_LOOP_BYTES:
            return parse_body(read, schema)
        return await asyncio.to_thread(parse_body, read, schema)

    return parse


def parse_body(read: bytes, schema: type[Body]) -> Body:
    """A body as its schema has it; raises InvalidRequest."""
    body = parse_json(read)
    if not isinstance(body, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {shown(body)}")
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise invalid(error, body, schema) from None


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """The same body for the OpenAPI page, which cannot see it in a dependency."""
    body = schema.model_json_schema()
    inlined = _inlined(body, body.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:  # any JSON value
    """A JSON schema with its definitions where they are referred to: inside an OpenAPI document such references lead nowhere."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(item, definitions) for name, item in schema.items()}


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, but never more than the limit: a longer one is refused by its header or as soon as it shows."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client left before its request was complete")
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(limit)
        if not message.get("more_body", False):
            return bytes(body)


def parse_json(body: bytes) -> Any:  # any JSON value
    """JSON as RFC 8259 has it: UTF-8, no NaN, no number that overflows, no key twice, no bottomless nesting."""
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise InvalidRequest(f"an object has {len(pairs)} keys; the most that is read is {MAX_KEYS}")
    items = dict(pairs)
    if len(items) < len(pairs):
        raise InvalidRequest(f"the key {shown(repeated_key(pairs))} stands twice in one object")
    return items


def _refuse_constant(name: str) -> Never:
    raise InvalidRequest(f"the body is not JSON: {name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidRequest(f"the number {shown(digits)} is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequest(f"the number {shown(digits)} has {len(digits)} digits; the most that is read is {MAX_DIGITS}")
    return int(digits)
