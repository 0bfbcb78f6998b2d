"""Options about what answers hold."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class HttpConfig(Topic):
    """Answers."""

    response_role: str = option("assistant", "The `role` of chat answers.")
    enable_prompt_tokens_details: bool = option(True, "Tell in `usage` how many prompt tokens came from the prefix cache.")
    enable_force_include_usage: bool = option(False, "Send usage in every stream, as if stream_options asked for it.")
    stream_interval: int = option(1, "Tokens of an answer in one event of a stream; a request may ask for more.", ge=1, le=65536)
    sse_keep_alive_interval: float = option(
        15.0, "Seconds of silence after which a stream sends a comment, so that no proxy cuts it; 0: never.", ge=0
    )
    return_tokens_as_token_ids: bool = option(
        False, "Write tokens in logprobs as token_id:N; a request's field of that name goes before it."
    )
    enable_per_request_metrics: bool = option(
        False, "Tell `metrics` (time to first token, tokens a second ..) in answers and in a stream's usage event, for n = 1."
    )
    fingerprint_mode: Literal["full", "hash", "none", "custom"] = option(
        "full",
        "What `system_fingerprint` tells: full: version, devices and a hash of what computes the answers; hash: without the devices; "
        "custom: --fingerprint-value.",
    )
    fingerprint_value: str | None = option(None, "The fingerprint, with --fingerprint-mode custom.")
    enable_tokenizer_info_endpoint: bool = option(False, "GET /tokenizer_info: the tokenizer's configuration and chat template.")
    enable_request_id_headers: bool = option(False, "Put X-Request-Id on every answer: the request's own, or a fresh one.")
    disable_fastapi_docs: bool = option(False, "No /docs, /redoc, /openapi.json.")


def http_problems(http: HttpConfig) -> list[str]:
    if http.fingerprint_mode == "custom" and http.fingerprint_value is None:
        return ["--fingerprint-mode custom needs --fingerprint-value, the text to send"]
    return []


def http_warnings(http: HttpConfig) -> list[str]:
    if http.fingerprint_mode != "custom" and http.fingerprint_value is not None:
        return ["--fingerprint-value is not used: that text is sent with --fingerprint-mode custom only"]
    return []
