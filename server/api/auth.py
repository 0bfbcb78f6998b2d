"""The API key: guards every route but those that probes and scrapers need."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.errors import Unauthorized, response_to
from headway.server.api.paths import route_path

OPEN_PATHS = frozenset({"/ping", "/health", "/metrics", "/version"})
_MESSAGE = "A valid API key is needed: send it as the header `Authorization: Bearer KEY`."


class ApiKeyMiddleware:
    """Lets a request through if it brings one of ``keys``, asks for an open path, or is a CORS preflight (OPTIONS)."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._may_pass(scope):
            await self.app(scope, receive, send)
        else:  # of a WebSocket too: it answers the handshake
            await response_to(Unauthorized(_MESSAGE))(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope.get("method") == "OPTIONS" or route_path(scope).rstrip("/") in OPEN_PATHS:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        digest = _digest(key.strip())
        # Every key is compared, so that the time tells nothing about which one is close.
        return any([hmac.compare_digest(digest, known) for known in self._digests])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
