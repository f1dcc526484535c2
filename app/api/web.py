"""The files that browsers get: the page, the streaming client, and the OpenAPI document as a page. Knows no engine.

All are read once, at start: no path of a request reaches the disk.
"""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.documentation import text
from app.settings import WEB

router = APIRouter()
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# The address of each file; those under page/ have their own, so that a file added there is served without a word here.
ADDRESSES = {
    "/": "index.html",
    "/client.js": "client.js",
    "/docs": "docs.html",
    "/docs/start.js": "docs.js",
    "/docs/swagger-ui.css": "swagger/swagger-ui.css",
    "/docs/swagger-ui-bundle.js": "swagger/swagger-ui-bundle.js",
}
# Nothing inline and nothing from elsewhere; what the page draws leaves it as a blob.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again: a new version of the service is a new page
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class WebFile:
    """A file's bytes and the headers that go with them."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._media_type = MEDIA_TYPES[path.suffix]
        self._headers = {**HEADERS, "etag": f'"{hashlib.blake2b(self._body, digest_size=16).hexdigest()}"'}

    def response(self, known: str) -> Response:
        """A 304 where `known`, an If-None-Match, names what is here. Ranges are passed over, as RFC 9110, section 14.2, allows."""
        if self._headers["etag"] in known or known == "*":
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers, media_type=self._media_type)


def _read() -> dict[str, WebFile]:
    files = {address: WEB / name for address, name in ADDRESSES.items()}
    files |= {f"/{path.relative_to(WEB).as_posix()}": path for path in WEB.glob("page/**/*") if path.suffix in MEDIA_TYPES}
    return {address: WebFile(path) for address, path in files.items()}


FILES = _read()  # by address; they are the same for everybody, and need no key


@router.get("/", tags=["operations"], response_class=Response, responses=text("The page.", "text/html", "<!doctype html>"))
async def page(request: Request) -> Response:
    """A page to write with, and to look into the model."""
    return _file(request)


@router.get("/client.js", include_in_schema=False)
async def client(request: Request) -> Response:
    """The page's streaming client, an ES module for any page and for Node."""
    return _file(request)


@router.get("/page/{name:path}", include_in_schema=False)
async def part(request: Request) -> Response:
    return _file(request)


@router.get("/docs", include_in_schema=False)
@router.get("/docs/{name:path}", include_in_schema=False)
async def docs(request: Request) -> Response:
    """Swagger UI on /openapi.json; FastAPI's own page would fetch its scripts from elsewhere."""
    return _file(request)


def _file(request: Request) -> Response:
    file = FILES.get(request.scope["path"])
    if file is None:
        raise HTTPException(404)
    return file.response(request.headers.get("if-none-match", ""))
