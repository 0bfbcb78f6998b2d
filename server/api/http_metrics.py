"""Metrics of HTTP requests and WebSockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from headway.server.api.errors import error_type
from headway.server.api.series import Series
from headway.server.config.buckets import Bounds

_HIGH_RESOLUTION = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Requests by route template, as prometheus-fastapi-instrumentator names them; errors by type are our own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("http_requests", "HTTP requests.", ["handler", "method", "status"], registry=registry)
        self._errors = Counter(
            "headway:http_errors", "HTTP requests that failed, by the error's type.", ["handler", "type"], registry=registry
        )
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time to answer, by route.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1),
            registry=registry,
        )
        self._duration_highr = Histogram(
            "http_request_duration_highr_seconds", "Time to answer, all routes.", buckets=_HIGH_RESOLUTION, registry=registry
        )
        self._request_size = Summary("http_request_size_bytes", "Content-Length of requests.", ["handler"], registry=registry)
        self._response_size = Summary("http_response_size_bytes", "Bytes of answers.", ["handler"], registry=registry)

    def record(
        self, handler: str, method: str, status: int, seconds: float, *, request_bytes: int, response_bytes: int, failure: int | None
    ) -> None:
        """``failure``: the status of an error that came when another status was out, in a stream."""
        method = method if method in _METHODS else "OTHER"  # a client's invention must not make a series
        self._requests.labels(handler, method, f"{status // 100}xx").inc()
        if (failed := failure or status) >= 400:
            self._errors.labels(handler, error_type(failed)).inc()
        self._duration.labels(handler, method).observe(seconds)
        self._duration_highr.observe(seconds)
        self._request_size.labels(handler).observe(request_bytes)
        self._response_size.labels(handler).observe(response_bytes)


class WebSocketMetrics:
    """Connections, under vLLM's names."""

    def __init__(self, series: Series, bounds: Bounds) -> None:
        active = Gauge(
            series.name("websocket_connections_active"),
            "WebSockets that are open.",
            ["model_name", "engine"],
            registry=series.registry,
            multiprocess_mode="livesum",
        )
        self._active = active.labels(series.model_name, series.engine)
        self._opened = series.counter("websocket_connections", "WebSockets that were opened.")
        self._duration = series.histogram("websocket_connection_duration_seconds", "How long WebSockets were open.", bounds)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Around the life of one."""
        started = time.monotonic()
        self._opened.inc()
        self._active.inc()
        try:
            yield
        finally:
            self._active.dec()
            self._duration.observe(time.monotonic() - started)
