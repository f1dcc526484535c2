"""What operators and their tools ask for: health, metrics, facts, and the tokenizer."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from app.api.body import documented, json_body
from app.api.documentation import answer, native_errors, text
from app.api.responses import JSON
from app.api.spans import LongAnswer, written
from app.errors import InvalidRequest
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.long_texts import INLINE_BYTES, text_size
from app.schemas.answers import DetokenizeAnswer, SpannedToken
from app.schemas.native import DetokenizeRequest, TokenizeRequest
from model.token_spans import TokenSpans

router = APIRouter()
OK = text("So it is.", "text/plain", "ok")
EXPOSITION = text("All series, in Prometheus' text format.", CONTENT_TYPE_LATEST, "gpt2_slots 32.0\n")


@router.get("/health/live", tags=["health"], response_class=Response, responses=OK)
async def live() -> Response:
    """The event loop turns."""
    return PlainTextResponse("ok")


@router.get("/health", tags=["health"], response_class=Response, responses=OK | native_errors(503))
@router.get("/health/ready", tags=["health"], response_class=Response, responses=OK | native_errors(503))
async def ready(request: Request) -> Response:
    """Requests are taken in: the model is loaded, the engine gives signs of life, and no shutdown is under way."""
    request.app.state.generator.client.check_ready()
    return PlainTextResponse("ok")


@router.get("/health/startup", tags=["health"], response_class=Response, responses=OK)
async def startup() -> Response:
    """The self-test's token was right; a server whose self-test fails does not come up at all."""
    return PlainTextResponse("ok")


@router.get("/metrics", tags=["operations"], response_class=Response, responses=EXPOSITION)
async def metrics(request: Request) -> Response:
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/info", tags=["operations"], responses=answer(ServiceInfo, "Sizes in tokens and requests."))
async def info(request: Request) -> Response:
    """The model, its sizes and the service's limits."""
    return JSON(asdict(request.app.state.info))


@router.post(
    "/tokenize",
    tags=["tokenizer"],
    openapi_extra=documented(TokenizeRequest),
    responses=answer(list[SpannedToken], "The tokens, with offsets in characters.") | native_errors(413, 422, 429, 500),
)
async def tokenize(request: Request, body: Annotated[TokenizeRequest, Depends(json_body(TokenizeRequest))]) -> Response:
    """The tokens of a text, with offsets in characters."""
    generator: TextGenerator = request.app.state.generator

    def spans() -> TokenSpans:
        return generator.tokenizer.spans(body.inputs, body.reading)[-(body.truncate or 0) :]  # -0: all

    size = text_size(body.inputs)
    if size <= INLINE_BYTES:
        return Response(b"".join(written(spans())), media_type=JSON.media_type)
    return await LongAnswer.of(generator.long_texts, size, lambda: written(spans()))


@router.post(
    "/detokenize",
    tags=["tokenizer"],
    openapi_extra=documented(DetokenizeRequest),
    responses=answer(DetokenizeAnswer, "The text.") | native_errors(413, 422, 429, 500),
)
async def detokenize(request: Request, body: Annotated[DetokenizeRequest, Depends(json_body(DetokenizeRequest))]) -> Response:
    """The text of token ids."""
    generator: TextGenerator = request.app.state.generator
    vocab_size = generator.client.limits.vocab_size
    if unknown := next((i for i in body.ids if i >= vocab_size), None):
        raise InvalidRequest(f"ids: token id {unknown} is outside the vocabulary of {vocab_size}", param="ids")
    skips = body.skip_special_tokens is True
    return await generator.long_texts.run(len(body.ids), lambda: JSON({"text": generator.tokenizer.decode(body.ids, skips)}))
