"""Options about traces."""

from __future__ import annotations

from urllib.parse import urlsplit

from headway.server.config.fields import Topic, option

_PATH = "/v1/traces"


class TracingConfig(Topic):
    """Tracing."""

    otlp_traces_endpoint: str | None = option(
        None,
        "URL of an OpenTelemetry collector that gets a span of each generation request, as OTLP over HTTP (port 4318 mostly); a URL "
        "without a path gets /v1/traces. Needs the extra otel. Default: no tracing.",
        metavar="URL",
    )

    @property
    def endpoint(self) -> str | None:
        """With its path."""
        url = self.otlp_traces_endpoint
        return url.rstrip("/") + _PATH if url is not None and urlsplit(url).path in ("", "/") else url


def tracing_problems(tracing: TracingConfig) -> list[str]:
    url = tracing.otlp_traces_endpoint
    if url is None:
        return []
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none
        is_usable = False
    if is_usable:
        return []
    return [
        f"--otlp-traces-endpoint must be a URL such as http://collector:4318/v1/traces, got {url!r}; "
        "OTLP over gRPC is not supported, and collectors take HTTP beside it"
    ]
