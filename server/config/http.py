"""Options about what answers hold."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class HttpConfig(Topic):
    """Answers."""

    response_role: str = option("assistant", "The `role` of chat answers.")
    enable_prompt_tokens_details: bool = option(True, "Tell in `usage` how many prompt tokens came from the prefix cache.")
    enable_force_include_usage: bool = option(False, "Send usage in every stream, as if stream_options asked for it.")
    enable_request_id_headers: bool = option(False, "Put X-Request-Id on every answer: the request's own, or a fresh one.")
    disable_fastapi_docs: bool = option(False, "No /docs, /redoc, /openapi.json.")
