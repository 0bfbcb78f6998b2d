"""Tracing where it is on. Where it is off nothing of OpenTelemetry is imported: only this module is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from headway.server.config.tracing import TracingConfig
from headway.server.errors import ConfigError

if TYPE_CHECKING:
    from headway.server.api.request_span import RequestSpan
    from headway.server.api.tracing import Tracing

_PROTOCOL = "http/protobuf"
_PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def make_tracing(config: TracingConfig, environ: Mapping[str, str]) -> Tracing | None:
    """None where no traces are asked for. Raises ConfigError for what is not supported or not installed."""
    if config.endpoint is None:
        return None
    for variable in _PROTOCOL_VARIABLES:
        if (protocol := environ.get(variable, _PROTOCOL)) != _PROTOCOL:
            raise ConfigError(
                [f"{variable}={protocol} is not supported: use {_PROTOCOL}, with the collector's port for HTTP in --otlp-traces-endpoint"]
            )
    try:
        from headway.server.api.tracing import Tracing
    except ModuleNotFoundError as problem:
        if not (problem.name or "").startswith("opentelemetry"):
            raise
        raise ConfigError(
            [f"--otlp-traces-endpoint needs OpenTelemetry, and {problem.name} is not installed: pip install 'headway[otel]'"]
        ) from problem
    return Tracing(config.endpoint)


def span_of(connection: HTTPConnection) -> RequestSpan | None:
    """The span of the HTTP request."""
    span: RequestSpan | None = connection.scope.get("headway.span")
    return span


def message_span(tracing: Tracing | None, websocket: HTTPConnection) -> AbstractContextManager[RequestSpan | None]:
    """A span for a message of a WebSocket."""
    return tracing.begin("message", websocket) if tracing is not None else nullcontext()


def background_span(request: RequestSpan | None) -> RequestSpan | None:
    """A span for what goes on behind the answer, below that of its request; whoever does it enters and so ends it."""
    return request.child("background") if request is not None else None


def line_span(batch: RequestSpan | None) -> AbstractContextManager[RequestSpan | None]:
    """A span for a line, below that of its batch."""
    return batch.child("line") if batch is not None else nullcontext()
