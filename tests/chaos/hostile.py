"""Hostile requests made by hand: raw bytes, and with which statuses each may be answered. Here those whose JSON is at fault.

What a field or a body should never be, on every route that takes it. Nothing is random: that is schemathesis' part.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

DEEP = 100_000
REFUSED = frozenset({400, 422})
ANY = frozenset({200, 400, 404, 405, 413, 414, 415, 422, 431, 501, 505})  # answered somehow, but never with our own fault


class Hostile(NamedTuple):
    """`statuses` are those that may answer; where `may_hang_up`, closing without an answer will do as well."""

    name: str
    raw: bytes
    statuses: frozenset[int]
    may_hang_up: bool = False


def bodies_and_fields() -> list[Hostile]:
    return [*_fields(), *_bodies()]


def request(path: str, body: bytes, method: str = "POST", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


# Fields: a JSON text in one field of an otherwise good body.

NUMBERS = {
    "true": "true",
    "a string": '"5"',
    "a list": "[5]",
    "an object": "{}",
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "1e400": "1e400",
    "10^30": "1" + "0" * 30,
    "5,000 digits": "9" * 5000,
    "2^63": str(2**63),
    "-1": "-1",
    "-1.5": "-1.5",
}
TEXTS = {
    "a number": "5",
    "true": "true",
    "an object": "{}",
    "a lone surrogate": '"\\ud800"',
    "half a pair": '"a\\udfffb"',
    "a list of texts": '["a", "b"]',
    "a list of nothing": "[[]]",
    "raw newline": '"a\nb"',
}
GENERATE_FIELDS = [
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "n",
    "repetition_penalty",
    "top_n_tokens",
    "truncate",
    "timeout_seconds",
    "min_new_tokens",
]
COMPLETION_FIELDS = ["max_tokens", "temperature", "logprobs", "n", "best_of", "presence_penalty"]
# Large numbers that mean "as many as there can be", and numbers that are just unusual.
LARGE = ("10^30", "2^63")
HARMLESS = {
    *((field, name) for field in ("max_new_tokens", "min_new_tokens", "max_tokens", "top_k", "truncate") for name in LARGE),
    *((field, name) for field in ("temperature", "repetition_penalty", "timeout_seconds") for name in LARGE),
    *(("presence_penalty", name) for name in ("-1", "-1.5")),
    ("seed", "2^63"),
    ("top_k", "-1"),
}


def _fields() -> Iterator[Hostile]:
    for name, text in NUMBERS.items():
        for field in GENERATE_FIELDS:
            parameters = ", ".join(f'"{key}": {value}' for key, value in {"max_new_tokens": "1", field: text}.items())
            body = f'{{"inputs": "a", "parameters": {{{parameters}}}}}'
            yield Hostile(f"/generate: {field} is {name}", request("/generate", body.encode()), _statuses(field, name))
        for field in COMPLETION_FIELDS:
            fields = ", ".join(f'"{key}": {value}' for key, value in {"prompt": '"a"', "max_tokens": "1", field: text}.items())
            raw = request("/v1/completions", f"{{{fields}}}".encode())
            yield Hostile(f"/v1/completions: {field} is {name}", raw, _statuses(field, name))
    for path, field in (("/generate", "inputs"), ("/v1/completions", "prompt"), ("/tokenize", "inputs"), ("/detokenize", "ids")):
        for name, text in TEXTS.items():
            is_good = path == "/v1/completions" and name.startswith("a list")  # several prompts, or an empty one
            statuses = ANY if is_good else REFUSED
            yield Hostile(f"{path}: {field} is {name}", request(path, f'{{"{field}": {text}}}'.encode()), statuses)
    for name, text in TEXTS.items():
        body = f'{{"messages": [{{"role": "user", "content": {text}}}], "max_tokens": 1}}'
        yield Hostile(f"chat: content is {name}", request("/v1/chat/completions", body.encode()), REFUSED | {404, 501})
    yield from _lists()


def _statuses(field: str, name: str) -> frozenset[int]:
    return ANY if (field, name) in HARMLESS else REFUSED


def _lists() -> Iterator[Hostile]:
    """Too many, too long, too strange: of things that come in lists."""
    lists = {
        "/generate": {
            "stop": [["a"] * 5000, [""], ["x" * 100_000], [None], "a" * 300_000, [["a"]]],
            "stop_token_ids": [[2**31], [-1], [True], list(range(5000)), ["1"], [1.5]],
            "logit_bias": [{"-1": 1}, {"a": 1}, {"1": "x"}, {"1": 1e308}, {str(i): 1 for i in range(5000)}, {"1" * 100: 1}],
        },
        "/detokenize": {"ids": [[-1], [2**63], [1.0], [True], ["1"], [None], 5, [[1]]]},
        "/v1/completions": {"prompt": [[-1], [2**40], [[1], "a"], [1, "a"], [[]] * 3, ["a"] * 5000, [[["a"]]], [1] * 100_000]},
        "/v1/score": {"candidates": [[], [""], "a", [5], ["a"] * 100_000, [["a"]]]},
    }
    rest = {"/v1/score": {"prompt": "a"}, "/generate": {"inputs": "a"}}
    for path, fields in lists.items():
        for field, values in fields.items():
            for number, value in enumerate(values):
                given = {"parameters": {field: value, "max_new_tokens": 1}} if path == "/generate" else {field: value}
                body = json.dumps(rest.get(path, {}) | given).encode()
                yield Hostile(f"{path}: {field}, strange list {number}", request(path, body), ANY)


# Bodies: no JSON, or not the JSON that is meant.

BODIES = {
    "nothing": b"",
    "blank": b" \r\n",
    "a word": b"hello",
    "cut off": b'{"inputs": "a',
    "two": b'{"inputs":"a"}{"inputs":"b"}',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "NUL": b"\x00" * 64,
    "single quotes": b"{'inputs': 'a'}",
    "a comment": b'{"inputs": "a" /* */}',
    "not UTF-8": b'{"inputs": "\xff"}',
    "overlong UTF-8": b'{"inputs": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"inputs": "\xed\xa0\x80"}',
    "UTF-16": '{"inputs": "a"}'.encode("utf-16"),
    "UTF-32": '{"inputs": "a"}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"inputs": "a"}',
    "a key twice": b'{"inputs": "a", "inputs": "b", "prompt": "a", "prompt": "b"}',
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep in a field": b'{"inputs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a form": b"inputs=a&stream=true",
    "XML": b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "100,000 keys": json.dumps({str(i): i for i in range(80_000)}).encode(),
    "a number of a megabyte": b'{"inputs": ' + b"1" * 1_000_000 + b"}",
    "prototype": b'{"__proto__": {"inputs": "a"}}',
    "a million escapes": b'{"inputs": "' + b"\\u0041" * 160_000 + b'"}',
    "unknown field": b'{"inputs": "a", "parameters": {"max_new_tokens": 1, "no_such_field": 1}}',
    "gzip": b"\x1f\x8b\x08\x00" + b"\x00" * 40,
}
ROUTES = (
    "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/inspect", "/tokenize",
    "/detokenize",
)  # fmt: skip


def _bodies() -> Iterator[Hostile]:
    for path in ROUTES:
        for name, body in BODIES.items():
            # OpenAI's dialect takes fields that it does not know, and needs no prompt.
            is_good = name == "a million escapes" or (path == "/v1/completions" and name in ("prototype", "unknown field"))
            yield Hostile(f"{path}: a body of {name}", request(path, body), ANY if is_good else ANY - {200})
