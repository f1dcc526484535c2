"""Hostile requests whose first line, headers, chunks or path is at fault: what no client of ours sends."""

from collections.abc import Iterator

from tests.chaos.hostile import ANY, Hostile, request

GOOD = b'{"inputs": "a", "parameters": {"max_new_tokens": 1}}'
LENGTH = f"content-length: {len(GOOD)}\r\n"
HEADERS = {
    "two lengths": f"{LENGTH}content-length: 0\r\n",
    "a length of a word": "content-length: many\r\n",
    "a negative length": "content-length: -1\r\n",
    "a length with a sign": f"content-length: +{len(GOOD)}\r\n",
    "a length of 30 digits": f"content-length: {'9' * 30}\r\n",
    "a hexadecimal length": "content-length: 0x10\r\n",
    "a length and chunks": f"{LENGTH}transfer-encoding: chunked\r\n",
    "unknown encoding": "transfer-encoding: gzip, chunked\r\n",
    "chunks twice": "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "chunks disguised": "transfer-encoding: xchunked\r\n",
    "a folded line": f"x-a: b\r\n c\r\n{LENGTH}",
    "no colon": "nonsense\r\n",
    "an empty name": ": a\r\n",
    "a blank in a name": "x a: b\r\n",
    "a blank before the colon": f"content-length : {len(GOOD)}\r\n",
    "NUL in a value": "x-a: a\x00b\r\n",
    "NUL in a name": "x\x00: a\r\n",
    "bare CR": "x-a: a\rb: c\r\n",
    "a long value": f"x-a: {'a' * 200_000}\r\n",
    "a long name": f"{'a' * 100_000}: b\r\n",
    "many headers": "".join(f"x-{i}: a\r\n" for i in range(5000)),
    "bytes over 127": f"x-a: \xff\xfe\r\n{LENGTH}",
    "expects an answer": f"expect: nonsense\r\n{LENGTH}",
    "an upgrade to h2c": f"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQA\r\n{LENGTH}",
    "an upgrade to a websocket": "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n",
    "a cookie of 10 KB": f"cookie: {'a' * 10_000}\r\n{LENGTH}",
    "a request id with a line": f"x-request-id: a b\t{'c' * 300}\r\n{LENGTH}",
    "a traceparent of nonsense": f"traceparent: 00-zz-00-'; drop\r\n{LENGTH}",
    "an encoded body": f"content-encoding: gzip\r\n{LENGTH}",
    "another type": f"content-type: image/png\r\n{LENGTH}",
    "a charset of nonsense": f'content-type: application/json; charset="\\"\r\n{LENGTH}',
    "ranges": f"range: bytes=0-0,1-1,{','.join(f'{i}-{i}' for i in range(500))}\r\n{LENGTH}",
}
LINES = {
    "no method": b" / HTTP/1.1",
    "an unknown method": b"FETCH / HTTP/1.1",
    "a method of a kilobyte": b"A" * 1000 + b" / HTTP/1.1",
    "no path": b"GET  HTTP/1.1",
    "no version": b"GET /",
    "HTTP/0.9": b"GET / HTTP/0.9",
    "HTTP/2.0": b"GET / HTTP/2.0",
    "HTTP/1.9": b"GET / HTTP/1.9",
    "HTTP/11.1": b"GET / HTTP/11.1",
    "lower case": b"get / http/1.1",
    "a tab": b"GET\t/\tHTTP/1.1",
    "NUL": b"GET /\x00 HTTP/1.1",
    "an absolute address": b"GET http://elsewhere/info HTTP/1.1",
    "another scheme": b"GET file:///etc/passwd HTTP/1.1",
    "CONNECT": b"CONNECT elsewhere:443 HTTP/1.1",
    "TRACE": b"TRACE / HTTP/1.1",
    "OPTIONS *": b"OPTIONS * HTTP/1.1",
    "bytes over 127": b"GET /\xff\xfe HTTP/1.1",
    "a path of 100 KB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an HTTP/2 preface": b"PRI * HTTP/2.0",
    "SSH": b"SSH-2.0-OpenSSH_9.2",
    "binary": bytes(range(256)),
}
HOSTS = {
    "none": "",
    "two": "host: a\r\nhost: b\r\n",
    "empty": "host: \r\n",
    "with a path": "host: a/health\r\n",
    "with a user": "host: a@b\r\n",
    "a port of a word": "host: a:b\r\n",
    "blanks": "host: a b\r\n",
    "brackets": "host: [::1\r\n",
    "a kilobyte": f"host: {'a' * 1000}\r\n",
    "bytes over 127": "host: \xff\r\n",
}


def heads_and_paths() -> list[Hostile]:
    return [*_heads(), *_paths()]


def _heads() -> Iterator[Hostile]:
    for name, headers in HEADERS.items():
        raw = f"POST /generate HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode("latin-1") + GOOD
        yield Hostile(f"a head with {name}", raw, ANY | {408}, may_hang_up=True)
    for name, line in LINES.items():
        yield Hostile(f"a first line: {name}", line + b"\r\nhost: localhost\r\n\r\n", ANY, may_hang_up=True)
    for name, host in HOSTS.items():
        yield Hostile(f"a Host: {name}", f"GET /info HTTP/1.1\r\n{host}\r\n".encode("latin-1"), ANY, may_hang_up=True)
    chunks = {
        "a size of a word": b"zz\r\n",
        "a size of 17 digits": b"f" * 17 + b"\r\n",
        "no line end": b"1\r\naX",
        "a negative size": b"-1\r\n",
        "an extension of 100 KB": b"1;" + b"a" * 100_000 + b"\r\na\r\n0\r\n\r\n",
        "trailers of 100 KB": b"1\r\na\r\n0\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        "100,000 bytes one by one": b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n",
    }
    for name, body in chunks.items():
        head = b"POST /generate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        yield Hostile(f"chunks: {name}", head + body, ANY, may_hang_up=True)


# Paths and methods: nothing there is, or not so.

PATHS = (
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/docs/../../app/settings.py",
    "/docs/%2e%2e%2fsettings.py",
    "//generate",
    "/generate/",
    "/GENERATE",
    "/generate%00",
    "/generate;x=y",
    "/generate?inputs=a",
    "/v1/models/%ff",
    "/v1/models/../../info",
    "/v1/models/" + "a" * 5000,
    "/%",
    "/%zz",
    "/?" + "a=b&" * 5000,
    "/.env",
    "/.git/config",
    "/openapi.json/..",
    "/metrics/../health",
    "/health/live/../../generate",
    "/v1/chat/completions/../completions",
    "/\\..\\..\\windows",
    "/%c0%ae%c0%ae/",
)


def _paths() -> Iterator[Hostile]:
    for path in PATHS:
        yield Hostile(f"GET {path[:60]}", request(path, b"", "GET"), ANY)
        yield Hostile(f"POST {path[:60]}", request(path, GOOD), ANY)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"):
        for path in ("/generate", "/v1/completions", "/health/live", "/metrics"):
            yield Hostile(f"{method} {path}", request(path, b"", method), ANY)
