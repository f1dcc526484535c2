"""create_app: routes, middleware, errors and lifespan around a text generator. No globals: every call makes an app of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.api import chat as chat_completions
from app.api import completions, generate, inspect, operations, score, web
from app.api.documentation import with_keys
from app.api.responses import error_response
from app.authentication import OPEN_PATHS, KeyMiddleware, RunningRequests
from app.chat.conversation import Chat, NoChat
from app.errors import ServiceError
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.inspection.lane import Lane, NoLane
from app.keys import Keys
from app.loop_lag import LoopLag
from app.metrics import Metrics
from app.middleware import DoorMiddleware, FaultMiddleware, RequestMiddleware
from app.settings import Settings
from app.threads import threads_needed
from app.version import VERSION

if TYPE_CHECKING:
    from app.tracing import Tracing

MODULES = (generate, completions, chat_completions, score, inspect, operations, web)
# What a page of another origin may read of an answer, besides its body and type.
EXPOSED_HEADERS = (
    "retry-after", "traceresponse", "x-generated-tokens", "x-inference-time", "x-prompt-tokens", "x-queue-time", "x-request-id",
    "x-seed", "x-time-per-token", "x-total-time",
)  # fmt: skip
# FastAPI's own would trace and log to whatever OpenTelemetry finds in the process, exceptions' messages among others.
NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def create_app(
    settings: Settings,
    generator: TextGenerator,
    info: ServiceInfo,
    metrics: Metrics,
    chat: Chat | NoChat,
    lane: Lane | NoLane,
    keys: Keys | None = None,
    tracing: "Tracing | None" = None,
) -> FastAPI:
    """The ASGI application; its lifespan starts and stops the generator's engine, and ends the chat's process and the one that
    inspects: StartupError if it cannot.

    Without `keys` it is open to all who reach it; with `tracing` each request has a span.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # FastAPI passes it
        lag = LoopLag(metrics.loop_lag.observe)
        try:
            with threads_needed():
                await generator.client.start()
                generator.billing.start()
            lag.start()
            yield
        finally:
            lag.stop()
            await generator.client.stop()
            generator.billing.stop()
            chat.close()
            await lane.close()
            generator.long_texts.close()
            if tracing is not None:
                await tracing.close()

    app = FastAPI(
        title="GPT-2",
        version=VERSION,
        lifespan=lifespan,
        description="Generates text with GPT-2.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address that is made of the client's Host header
        telemetry=NO_TELEMETRY,
    )
    app.state.settings, app.state.generator, app.state.info, app.state.metrics = settings, generator, info, metrics
    app.state.chat, app.state.lane, app.state.keys = chat, lane, keys
    app.state.is_draining = False  # the server's to change
    for module in MODULES:
        app.include_router(module.router)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_middleware(app)
    if tracing is not None:
        _trace(app, tracing, info)
    return app


def _add_middleware(app: FastAPI) -> None:
    """From the innermost to the outermost."""
    settings: Settings = app.state.settings
    app.add_middleware(DoorMiddleware, generator=app.state.generator)
    app.add_middleware(FaultMiddleware, answer=_unexpected_error)
    if app.state.keys is not None:
        _demand_keys(app, settings, app.state.keys)
    if settings.cors_origins:  # outside of the keys: a preflight brings none, and a page of a named origin may read the 401
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # whatever a preflight asks for: clients send authorization and many of their own
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics)


def _trace(app: FastAPI, tracing: "Tracing", info: ServiceInfo) -> None:
    """Outside of all else; who does not trace imports nothing of it."""
    from app.tracing import TracingMiddleware

    app.add_middleware(TracingMiddleware, tracing=tracing, model_id=info.model_id, routes=_routes())


def _demand_keys(app: FastAPI, settings: Settings, keys: Keys) -> None:
    """Of all but the open routes; the app's document says so too."""
    open_paths = OPEN_PATHS if settings.metrics_need_key else OPEN_PATHS | {"/metrics"}
    running = app.state.running_requests = RunningRequests(settings.max_running_per_key)
    app.add_middleware(KeyMiddleware, keys=keys, running=running, open_paths=open_paths)
    document = app.openapi
    app.openapi = lambda: with_keys(document(), open_paths)  # type: ignore[method-assign]  # FastAPI's own way to change it


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error_response(request.scope, error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, another method."""
    assert isinstance(error, HTTPException)
    cause = ServiceError(f"{request.method} {request.scope['path'][:100]}: {error.detail.lower()}")
    cause.status, cause.code = error.status_code, "not_found" if error.status_code == 404 else "validation"
    response = await _service_error(request, cause)
    if error.status_code == 405:
        response.headers["allow"] = ", ".join(_methods(request.scope["path"]))
    return response


def _methods(path: str) -> list[str]:
    """All methods of a path; Starlette's own answer tells those of one of its routes."""
    methods = {method for route in _routes() if route.path_regex.match(path) for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _routes() -> list[APIRoute]:
    return [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]


async def _unexpected_error(request: Request) -> Response:
    return await _service_error(request, ServiceError(f"something broke here; the log has it under {request.state.request_id}"))
