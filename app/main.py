"""create_app: routes, middleware, errors and lifespan around a text generator. No globals: every call makes an app of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.api import completions, generate, operations, score
from app.api.responses import JSON
from app.errors import InvalidRequest, ServiceError, native_error, openai_error
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.metrics import Metrics
from app.middleware import RequestMiddleware
from app.settings import Settings
from app.version import VERSION


def create_app(settings: Settings, generator: TextGenerator, info: ServiceInfo, metrics: Metrics) -> FastAPI:
    """The ASGI application; its lifespan starts and stops the generator's engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # FastAPI passes it
        await generator.client.start()
        try:
            yield
        finally:
            await generator.client.stop()

    app = FastAPI(title="GPT-2", version=VERSION, lifespan=lifespan, description="Generates text with GPT-2.")
    app.state.settings, app.state.generator, app.state.info, app.state.metrics = settings, generator, info, metrics
    for module in (generate, completions, score, operations):
        app.include_router(module.router)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-request-id"],
            expose_headers=["x-request-id", "x-seed", "x-prompt-tokens", "x-generated-tokens", "retry-after"],
        )
    app.add_middleware(RequestMiddleware, metrics=metrics)
    return app


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if request.scope["path"].startswith("/v1/"):  # not request.url's, which an odd Host header may change
        status = 400 if isinstance(error, InvalidRequest) and error.status == 422 else error.status
        return JSON(openai_error(error), status, headers)
    return JSON(native_error(error), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, another method."""
    assert isinstance(error, HTTPException)
    cause = ServiceError(f"{request.method} {request.scope['path'][:100]}: {error.detail.lower()}")
    cause.status, cause.code = error.status_code, "not_found" if error.status_code == 404 else "validation"
    response = await _service_error(request, cause)
    response.headers.update(error.headers or {})
    return response


async def _unexpected_error(request: Request, error: Exception) -> Response:  # the server logs it with its traceback
    request_id: str = request.state.request_id
    response = await _service_error(request, ServiceError(f"something broke here; the log has it under {request_id}"))
    response.headers["x-request-id"] = request_id  # Starlette answers these outside of all middleware
    return response
