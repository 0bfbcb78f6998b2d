"""Options of the HTTP server."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class HttpConfig(Topic):
    """HTTP server."""

    host: str | None = option(None, "Address to listen on. Default: all interfaces.")
    port: int = option(8000, "Port to listen on.", ge=1, le=65535)
    root_path: str = option("", "Path prefix that a proxy in front strips.")
    api_key: list[str] = option(
        [],
        "Keys of which a client must send one as `Authorization: Bearer KEY`; /ping, /health, /metrics and /version stay open.",
        secret=True,
        environment=("VLLM_API_KEY",),
    )
    max_request_body_bytes: int = option(16 * 1024 * 1024, "Largest request body; a larger one is answered 413.", ge=1024, human=True)
    response_role: str = option("assistant", "The `role` of chat answers.")
    enable_prompt_tokens_details: bool = option(True, "Tell in `usage` how many prompt tokens came from the prefix cache.")
    enable_force_include_usage: bool = option(False, "Send usage in every stream, as if stream_options asked for it.")
    enable_request_id_headers: bool = option(False, "Put X-Request-Id on every answer: the request's own, or a fresh one.")
    uvicorn_log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = option(
        "info", "Level of the HTTP server's own log; above info there is no access log either."
    )
    disable_uvicorn_access_log: bool = option(False, "No access log.")
    disable_fastapi_docs: bool = option(False, "No /docs, /redoc, /openapi.json.")
    shutdown_timeout: int = option(25, "Seconds that open requests get to finish on SIGTERM.", ge=0)
