"""Options about how much the server takes on at a time."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class OverloadConfig(Topic):
    """Limits and overload."""

    max_request_body_bytes: int = option(16 * 1024 * 1024, "Largest request body; a larger one is answered 413.", ge=1024, human=True)
    max_num_queued_reqs: int | None = option(
        None, "Most open requests; a further one is answered 503 with Retry-After. Default: no limit.", ge=1
    )
