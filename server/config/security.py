"""Options about who may use the server."""

from __future__ import annotations

import re

from headway.server.config.fields import Topic, option

_SENDABLE = re.compile(r"[^\x00-\x1f\x7f]+")


class SecurityConfig(Topic):
    """Security."""

    api_key: list[str] = option(
        [],
        "Keys of which a client must send one as `Authorization: Bearer KEY`; /ping, /health, /metrics and /version stay open.",
        secret=True,
        environment=("VLLM_API_KEY",),
    )


def security_problems(security: SecurityConfig) -> list[str]:
    if any(not _SENDABLE.fullmatch(key) for key in security.api_key):
        return ["--api-key holds a line break or another control character, so that no client can send it (it is not shown)"]
    return []
