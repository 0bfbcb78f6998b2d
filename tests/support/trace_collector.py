"""A collector of OpenTelemetry traces on a loopback port: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class TraceCollector:
    """A context manager. ``spans`` and ``resource`` are what came in, ``paths`` what was posted to."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> TraceCollector:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = values(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += scope_spans.spans

    def wait_for(self, condition: Callable[[Span], bool], timeout_s: float = 60) -> Span:
        """The first span of which it is true."""
        deadline = time.monotonic() + timeout_s
        while True:
            for span in list(self.spans):
                if condition(span):
                    return span
            assert time.monotonic() < deadline, f"no such span among {[span.name for span in self.spans]}"
            time.sleep(0.01)

    def children_of(self, parent: Span) -> dict[str, Span]:
        return {span.name: span for span in list(self.spans) if span.parent_span_id == parent.span_id}


def values(attributes: Any) -> dict[str, Any]:
    """A span's or a resource's attributes."""
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
