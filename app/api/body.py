"""Reads a request's body: bounded, UTF-8, strict JSON, then the schema. One error says what is wrong, and where."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Never, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from app.errors import BodyTooLarge, ClientLeft, InvalidRequest

Body = TypeVar("Body", bound=BaseModel)
SHOWN_CHARS = 60  # of a wrong value in an error's message
MAX_DIGITS = 40  # of an integer; the largest field takes 20


def json_body(schema: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that gives a handler its parsed body; raises InvalidRequest or BodyTooLarge."""

    async def parse(request: Request) -> Body:
        body = parse_json(await read_body(request, request.app.state.settings.max_body_bytes))
        if not isinstance(body, dict):
            raise InvalidRequest(f"the body must be a JSON object, not {_shown(body)}")
        try:
            return schema.model_validate(body)
        except ValidationError as error:
            raise _invalid(error) from None

    return parse


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
    items = dict(pairs)
    if len(items) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"the key {_shown(twice)} stands twice in one object")
    return items


def _refuse_constant(name: str) -> Never:
    raise InvalidRequest(f"the body is not JSON: {name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise InvalidRequest(f"the number {_shown(digits)} is too large")
    return value


def _bounded(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequest(f"the number {_shown(digits)} has {len(digits)} digits; the most that is read is {MAX_DIGITS}")
    return int(digits)


def _invalid(error: ValidationError) -> InvalidRequest:
    """Field, value and limit of each fault, on one line; the first one's field is the error's param."""
    faults = error.errors(include_url=False)
    lines = []
    for fault in faults[:5]:
        field = _field(fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such field")
        elif fault["type"] == "missing" or not field:
            lines.append(f"{field}: {reason}" if field else reason)
        else:
            lines.append(f"{field}: {_shown(fault['input'])} is refused: {reason[0].lower()}{reason[1:]}")
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return InvalidRequest("; ".join(lines) + more, param=_field(faults[0]["loc"]) or lines[0].partition(":")[0])


def _field(location: tuple[int | str, ...]) -> str:
    """A fault's place as `parameters.stop.0`, without the types that pydantic had tried there, and fit to be printed."""
    return _printable(".".join(str(part) for part in location if not str(part).startswith(("function-", "constrained-", "list["))))


def _shown(value: object) -> str:
    """A value as JSON, cut short and free of what cannot be printed."""
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."


def _printable(text: str) -> str:
    text = text[:SHOWN_CHARS]
    return text if text.isprintable() else json.dumps(text)[1:-1]
