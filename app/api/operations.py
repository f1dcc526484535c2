"""What operators and their tools ask for: health, metrics, facts, and the tokenizer."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse, PlainTextResponse, Response

from app.api.body import documented, json_body
from app.api.responses import JSON
from app.errors import InvalidRequest
from app.generation import TextGenerator, off_loop
from app.schemas.native import DetokenizeRequest, TokenizeRequest
from app.settings import PAGE

router = APIRouter()


@router.get("/health/live", tags=["health"])
async def live() -> Response:
    """The event loop turns."""
    return PlainTextResponse("ok")


@router.get("/health", tags=["health"])
@router.get("/health/ready", tags=["health"])
async def ready(request: Request) -> Response:
    """Requests are taken in: the model is loaded, the engine gives signs of life, and no shutdown is under way."""
    request.app.state.generator.client.check_ready()
    return PlainTextResponse("ok")


@router.get("/health/startup", tags=["health"])
async def startup() -> Response:
    """The self-test's token was right; a server whose self-test fails does not come up at all."""
    return PlainTextResponse("ok")


@router.get("/metrics", tags=["operations"])
async def metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/info", tags=["operations"])
async def info(request: Request) -> Response:
    """The model, its sizes and the service's limits."""
    return JSON(asdict(request.app.state.info))


@router.post("/tokenize", tags=["tokenizer"], openapi_extra=documented(TokenizeRequest))
async def tokenize(request: Request, body: Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))]) -> Response:
    """The tokens of a text, with offsets in characters."""
    generator: TextGenerator = request.app.state.generator
    return await off_loop(
        len(body.inputs),
        lambda: JSON(
            [{"id": s.id, "text": s.text, "start": s.start, "stop": s.stop} for s in generator.tokenizer.spans(body.inputs)]
        ),
    )


@router.post("/detokenize", tags=["tokenizer"], openapi_extra=documented(DetokenizeRequest))
async def detokenize(request: Request, body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))]) -> Response:
    """The text of token ids."""
    generator: TextGenerator = request.app.state.generator
    vocab_size = generator.client.limits.vocab_size
    if unknown := next((i for i in body.ids if i >= vocab_size), None):
        raise InvalidRequest(f"ids: token id {unknown} is outside the vocabulary of {vocab_size}", param="ids")
    return await off_loop(len(body.ids), lambda: JSON({"text": generator.tokenizer.decode(body.ids)}))


@router.get("/", include_in_schema=False)
async def page() -> Response:
    return FileResponse(PAGE)
