"""Options about how much the server takes on at a time."""

from __future__ import annotations

from headway.server.config.fields import Topic, option

MOST_TIMEOUT_S = 7 * 24 * 3600.0


class OverloadConfig(Topic):
    """Limits and overload."""

    max_request_body_bytes: int = option(16 * 1024 * 1024, "Largest request body; a larger one is answered 413.", ge=1024, human=True)
    max_num_queued_reqs: int | None = option(
        None, "Most open requests; a further one is answered 503 with Retry-After. Default: no limit.", ge=1
    )
    max_num_queued_tokens: int | None = option(
        None,
        "Most prompt tokens of open requests that have no token of the answer yet; what exceeds them is answered 503 with Retry-After. "
        "Default: no limit.",
        ge=1,
        human=True,
    )
    request_timeout: float | None = option(
        None,
        "Seconds from a request's arrival to its end; then it is ended and answered 504, or with an error event in a stream. "
        "Default: no limit.",
        gt=0,
        le=MOST_TIMEOUT_S,
    )
    queue_timeout: float | None = option(
        None,
        "Seconds that a request waits to be scheduled; then it is answered 503 with Retry-After. Default: no limit.",
        gt=0,
        le=MOST_TIMEOUT_S,
    )


def overload_warnings(overload: OverloadConfig) -> list[str]:
    """A sentence for each thing that was asked for and has no effect."""
    whole, queue = overload.request_timeout, overload.queue_timeout
    if whole is not None and queue is not None and queue >= whole:
        return [f"--queue-timeout {queue:g} is not used: --request-timeout {whole:g} ends a request before"]
    return []
