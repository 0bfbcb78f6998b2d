"""Traces: OpenTelemetry's provider and exporter, from the start of the application to its end. Imported only where traces are asked for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway import __version__
from headway.server.api.paths import is_generation, route_path
from headway.server.api.request_span import RequestSpan

log = logging.getLogger(__name__)

# For the spans of the last moments; a collector that does not answer must not hold up the exit.
FLUSH_S = 1.0


class Tracing:
    """Begins spans. ``start`` opens the way to the collector, ``stop`` sends what is left and closes it; both once.

    The provider is ours alone, so that a user's own code may have another. Sampler and limits are the SDK's, by OTEL_* variables.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("headway", __version__)

    def start(self) -> None:
        """Starts the thread that sends; it tries again by itself while the collector can't be reached."""
        # The SDK tells of each attempt and of each span that is lost; _OnceTold tells once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = _OnceTold(OTLPSpanExporter(self._endpoint), self._endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    async def stop(self) -> None:
        """Within FLUSH_S, whatever the collector does."""
        is_over = threading.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            is_over.set()

        # A daemon: the process's end does not wait for it.
        threading.Thread(target=shut_down, daemon=True, name="tracing-end").start()
        if not await asyncio.to_thread(is_over.wait, FLUSH_S):
            log.warning("The last traces could not be sent to %s within %g s", self._endpoint, FLUSH_S)

    def middleware(self) -> Middleware:
        return Middleware(_TracingMiddleware, tracing=self)

    def begin(self, name: str, connection: HTTPConnection) -> RequestSpan:
        """The span of a request, or of a WebSocket's message. Its parent is what the headers say, by OTEL_PROPAGATORS."""
        scope = connection.scope
        host, port = scope.get("server") or (None, None)  # not the Host header, which is the client's invention
        attributes = {"server.address": host, "server.port": port, "url.path": scope["path"], "http.request.method": scope.get("method")}
        given = {key: value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(name, extract(connection.headers), SpanKind.SERVER, given)
        return RequestSpan(self._tracer, span)


class _TracingMiddleware:
    """A span from a generation request's head to the end of its answer, whoever gives it."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_generation(scope):
            await self.app(scope, receive, send)
            return
        with self._tracing.begin(f"{scope['method']} {route_path(scope)}", HTTPConnection(scope)) as span:
            scope["headway.span"] = span

            async def noting_send(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.on_status(message["status"])
                await send(message)

            await self.app(scope, receive, noting_send)


class _OnceTold(SpanExporter):
    """``exporter``; says once that spans are lost, until some have gone through again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._is_losing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._is_losing = False
        elif not self._is_losing:
            self._is_losing = True
            log.warning("Traces can't be sent to %s and are lost until they can; requests are served as ever", self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _resource() -> Resource:
    """Ours, and what OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say, which goes before it."""
    return Resource.create({"service.name": "headway", "service.version": __version__, **OTELResourceDetector().detect().attributes})
