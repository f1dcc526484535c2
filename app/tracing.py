"""Traces of requests, by OpenTelemetry, which is imported here and nowhere else: a span a request, with queue, prefill and decode.

Names are those of its semantic conventions for HTTP and for generative AI. Never a prompt or a generated text, nor what may hold
one: a query, a stop string, an exception's message.
"""

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

from fastapi.routing import APIRoute
from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, Status, StatusCode, format_span_id, format_trace_id
from opentelemetry.util.http import sanitize_method
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.choices import REASONS
from app.generation import Generation, Timings
from app.inspection.work import Inspection
from app.middleware import QUIET_ROUTES, shown_path
from app.scoring import Scoring
from app.version import VERSION

PROVIDER = "gpt2-service"
OPERATIONS = {
    "/generate": "text_completion",
    "/generate_stream": "text_completion",
    "/": "text_completion",
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/score": "score",  # the conventions have no name for it
}
FAILED = ("failed", "expired")  # outcomes that are the service's fault or its slowness, whatever the status said before
FLUSH_SECONDS = 2.0  # with the drain and what follows it less than the 45 s after which compose kills
REPORT_SECONDS = 60  # at most one line of OpenTelemetry's own in so long
MAX_INTEGER = 2**63 - 1  # of OTLP; one larger number, such as half of all seeds, would lose the whole batch that it is in
PASSAGE = "gpt2.passage"
log = logging.getLogger("gpt2.tracing")

Attributes = dict[str, str | int | float | Sequence[str]]


class Tracing:
    """Where the spans of one service go; `close` waits for the last of them."""

    def __init__(self, exporters: Sequence[str]) -> None:
        # The stable names of HTTP's conventions; without this the instrumentation has those of 2021.
        os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        logger = logging.getLogger("opentelemetry")
        logger.handlers, logger.propagate = [_Reports()], False
        self.provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        for name in exporters:
            self.provider.add_span_processor(BatchSpanProcessor(_exporter(name)))

    def add_ids(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Let a line that is logged for a request carry its trace and span: a processor of structlog's."""
        found = trace.get_current_span().get_span_context()
        if found.is_valid:
            event["trace"], event["span"] = format_trace_id(found.trace_id), format_span_id(found.span_id)
        return event

    async def close(self) -> None:
        """Send what has not been sent, for a bounded time; a collector that hangs is left behind."""
        closing = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        deadline = time.monotonic() + FLUSH_SECONDS
        while closing.is_alive():  # by short looks, since threads to wait in may all be taken
            if time.monotonic() >= deadline:
                log.warning("the last spans could not be delivered within %g s", FLUSH_SECONDS)
                return
            await asyncio.sleep(0.005)


class TracingMiddleware:
    """A span around every request but those for health and metrics, by OpenTelemetry's ASGI instrumentation.

    Of the request the instrumentation sees no query, no client's address and no headers but those that carry a trace: they are
    nobody's business, as in the log, and it decodes all headers again for each that it looks for. Of the answer it sees the head
    alone: each part of a stream's body would cost it time, and the last would end the span too early.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, model_id: str, routes: Sequence[APIRoute]) -> None:
        self.app, self._model_id, self._routes = app, model_id, routes
        self._templates = {route.path: route.path_format for route in routes if not route.param_convertors}
        self._carriers = frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)
        self._tracer = trace.get_tracer("gpt2", VERSION, tracing.provider)
        self._instrumented = OpenTelemetryMiddleware(
            self._pass_on,
            default_span_details=self._details,
            tracer_provider=tracing.provider,
            meter_provider=NoOpMeterProvider(),
            exclude_spans=["receive", "send"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(QUIET_ROUTES):
            await self.app(scope, receive, send)
            return
        passage = _Passage(scope, send)
        hidden = {"query_string": b"", "client": None, "path": shown_path(scope["path"]), PASSAGE: passage}
        headers = [(name, value) for name, value in scope["headers"] if name in self._carriers]
        # A pipelined request starts within the one before it, whose child it is not.
        token = context.attach(context.Context())
        try:
            await self._instrumented({**scope, **hidden, "headers": headers}, receive, send)
        finally:
            context.detach(token)
        if passage.error is not None:
            raise passage.error

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The instrumented application: the real one, its answer's body sent past the instrumentation."""
        passage: _Passage = scope[PASSAGE]
        span = RequestSpan(self._tracer)
        state = passage.scope.setdefault("state", {})
        state["span"] = span

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.start":
                await passage.send(message)
                return
            message["headers"] = [*message.get("headers", ()), (b"traceresponse", span.traceresponse)]
            span.status = message["status"]
            await send(message)

        try:
            await self.app(passage.scope, receive, send_head)
        except Exception as error:  # raised again outside of the instrumentation, which would tell its message
            passage.error = error
        finally:
            span.end(state, passage.error)

    def _details(self, scope: Scope) -> tuple[str, Attributes]:
        """A span's name, and what is known of it at once, by which it may be sampled."""
        method, path = sanitize_method(scope["method"]), scope["path"]
        verb = "HTTP" if method == "_OTHER" else method
        template = self._templates.get(path) or next((r.path_format for r in self._routes if r.path_regex.match(path)), None)
        # The instrumentation's own address has the port in it.
        details: Attributes = {"server.address": scope["server"][0]} if scope.get("server") else {}
        if template is None:
            return verb, details
        details["http.route"] = template
        if method == "POST" and path in OPERATIONS:
            details["gen_ai.operation.name"] = OPERATIONS[path]
            details["gen_ai.provider.name"], details["gen_ai.request.model"] = PROVIDER, self._model_id
        return f"{verb} {template}", details


class _Passage:
    """A request on its way through the instrumentation, which is shown less of it."""

    __slots__ = ("error", "scope", "send")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.send = scope, send
        self.error: Exception | None = None


class RequestSpan:
    """The current request's span, for those who know what is to be told of it."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer, self._span = tracer, trace.get_current_span()
        self._wall_offset = time.time_ns() - time.monotonic_ns()  # once: the children's times then fit each other
        self.status = 0  # none yet

    @property
    def traceresponse(self) -> bytes:
        """W3C Trace Context, level 3 (a draft): which span the answer comes from."""
        found = self._span.get_span_context()
        return f"00-{format_trace_id(found.trace_id)}-{format_span_id(found.span_id)}-{found.trace_flags:02x}".encode()

    def set(self, name: str, value: str) -> None:
        self._span.set_attribute(name, value)

    def take(self, work: Generation | Scoring | Inspection) -> None:
        """What the engine did for the request, once it has ended, however it did; of an inspection its prompt alone."""
        if not self._span.is_recording():
            return
        if isinstance(work, Inspection):
            self._span.set_attribute("gen_ai.usage.input_tokens", work.num_prompt)
            return
        usage = {"gen_ai.usage.input_tokens": work.num_prompt, "gen_ai.usage.cache_read.input_tokens": work.num_reused}
        drawn = {"gen_ai.usage.output_tokens": work.num_generated}
        self._span.set_attributes({**usage, **drawn})
        if isinstance(work, Generation):
            self._span.set_attributes(_asked(work))
            if reasons := [REASONS[reason] for sample in work.samples if (reason := sample.finish_reason) is not None]:
                self._span.set_attribute("gen_ai.response.finish_reasons", [str(reason) for reason in reasons])
        self._add_children(work.timings, usage, drawn)

    def _add_children(self, times: Timings, usage: dict[str, int], drawn: dict[str, int]) -> None:
        """Of several samples the first to start tells the queue's end, and the first token of any the prefill's."""
        if times.last_output is None:  # it ended before the engine told of it, so that nobody knows whether it had started
            self._add_child("queue or prefill", times.submitted, time.monotonic(), usage)
            return
        started, first = times.submitted + times.queue_seconds, times.first_token
        self._add_child("queue", times.submitted, started, {})
        self._add_child("prefill", started, times.last_output if first is None else first, usage)
        if first is not None:
            self._add_child("decode", first, times.last_output, drawn)

    def _add_child(self, name: str, start: float, end: float, attributes: dict[str, int]) -> None:
        """Both times are the engine's."""
        parent = trace.set_span_in_context(self._span, context.Context())
        child = self._tracer.start_span(name, parent, attributes=attributes, start_time=self._wall(start))
        child.end(self._wall(end))

    def _wall(self, seconds: float) -> int:
        return round(1e9 * seconds) + self._wall_offset

    def end(self, state: dict[str, Any], error: Exception | None) -> None:
        """How it ended: 5xx the instrumentation tells; a client that is at fault, or has left, is no error of the service."""
        span = self._span
        if not span.is_recording():
            return
        names = {"outcome": "gpt2.outcome", "reason": "gpt2.reason", "request_id": "gpt2.request_id"}
        span.set_attributes({told: value for name, told in names.items() if (value := state.get(name))})
        if (status := state.get("status")) is not None:  # the protocol's, where it answered before the application did
            span.set_attribute("http.response.status_code", status)
        if error is not None:
            _fail(span, type(error).__qualname__)
        elif self.status < 500 and (outcome := state.get("outcome")) in FAILED:
            _fail(span, outcome)


class _Reports(logging.Handler):
    """What OpenTelemetry has to say, such as that a collector cannot be reached: a line a minute of it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) >= self._silent_until:
            self._silent_until = now + REPORT_SECONDS
            log.warning("OpenTelemetry: %.300s", record.getMessage())


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(out=sys.stdout)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # takes a while

    return OTLPSpanExporter()


def _resource() -> Resource:
    """What the environment says of this service goes before what it says of itself."""
    own = Resource.create({"service.name": PROVIDER, "service.version": VERSION})
    return own.merge(OTELResourceDetector().detect())


def _asked(generation: Generation) -> dict[str, float]:
    """What the client asks for, but not what it says: stop strings are text."""
    request, sampling = generation.request, generation.request.sampling
    asked: dict[str, float] = {
        "gen_ai.request.max_tokens": request.max_new_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.choice.count": request.num_samples,
    }
    return {name: value for name, value in asked.items() if value <= MAX_INTEGER}


def _fail(span: Span, kind: str) -> None:
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", kind)
