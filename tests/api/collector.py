"""A collector of traces: OTLP over HTTP on loopback, as OpenTelemetry's own collector takes it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.api.conftest import PATIENCE_SECONDS


class Collected:
    """A span as it came, with plain values."""

    def __init__(self, span, resource):
        self.span, self.name = span, span.name
        self.attributes, self.resource = attributes_of(span), attributes_of(resource)
        self.id, self.trace, self.parent = span.span_id.hex(), span.trace_id.hex(), span.parent_span_id.hex()
        self.is_error = span.status.code == Status.STATUS_CODE_ERROR

    @property
    def is_server(self):
        return self.span.kind == Span.SPAN_KIND_SERVER


def attributes_of(holder):
    return {pair.key: value_of(pair.value) for pair in holder.attributes}


def value_of(value):
    if value.HasField("array_value"):
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


class Collector:
    """OTLP over HTTP on loopback: what came, and as which bytes."""

    def __init__(self):
        self.bodies, self._arrived = [], threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()
                with collector._arrived:
                    collector.bodies.append(body)
                    collector._arrived.notify_all()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self.url = True, f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def spans(self):
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        of_resources = [(one, part) for request in requests for one in request.resource_spans for part in one.scope_spans]
        return [Collected(span, one.resource) for one, part in of_resources for span in part.spans]

    @property
    def servers(self):
        return [span for span in self.spans if span.is_server]

    def wait_for(self, num_servers):
        """So many server spans, the newest last; their children were delivered before them."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self.servers) >= num_servers, PATIENCE_SECONDS)
        assert arrived, f"of {num_servers} spans {len(self.servers)} came"
        assert len(self.servers) == num_servers
        return self.servers

    def one(self):
        (span,) = self.wait_for(1)
        return span

    def children(self, parent):
        return [span for span in self.spans if span.parent == parent.id]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_SECONDS)
