"""Answers to what never becomes a request of the application's, in the words and shapes of its own errors."""

from http import HTTPStatus

import httptools
import orjson

from app.errors import MalformedRequest, ServiceError, VersionUnknown, native_error, openai_error

HEADS = {status: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def parser_error(error: httptools.HttpParserError) -> ServiceError:
    """The parser's words for what is wrong; they name no part of the request."""
    if isinstance(error, httptools.HttpParserInvalidURLError | httptools.HttpParserCallbackError):
        return MalformedRequest("its target is malformed")
    reason = str(error)
    if reason.startswith(("Invalid HTTP version", "Invalid m", "Pause on PRI")) and not reason.startswith("Invalid method"):
        return VersionUnknown()
    word = reason.split(" ", 1)[0]
    if word.isalpha() and word.istitle():  # no header's name, no CR
        reason = reason[0].lower() + reason[1:]
    return MalformedRequest(reason)


def refusal(error: ServiceError, path: str, request_id: str, date: list[tuple[bytes, bytes]], has_body: bool) -> bytes:
    """The whole answer, with which its connection ends."""
    body = orjson.dumps(openai_error(error) if path.startswith("/v1/") else native_error(error))
    headers = [
        *date,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    return b"".join([HEADS[HTTPStatus(error.status)], *lines, b"\r\n", body if has_body else b""])
