"""CORS: preflights, and the headers without which a browser hides an answer from the page that asked for it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway.server.api.errors import error_response, failure_response
from headway.server.config.cors import CorsConfig
from headway.server.words import cut

_EXPOSED = ("X-Request-Id", "Request-Id", "Retry-After")
_MAX_SHOWN = 100


class CorsMiddleware(CORSMiddleware):
    """Starlette's, with a refusal of a preflight that says what is refused, and a 500 of its own.

    It stands outside of the key: a preflight can bring none, and a page must be able to read a 401.
    """

    def __init__(self, app: ASGIApp, cors: CorsConfig) -> None:
        super().__init__(
            _FailureInside(app),
            allow_origins=cors.allowed_origins,
            allow_methods=cors.allowed_methods,
            allow_headers=cors.allowed_headers,
            allow_credentials=cors.allow_credentials,
            expose_headers=_EXPOSED,
        )

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        if self.allow_origins:
            await super().simple_response(scope, receive, send, request_headers)
        else:  # nothing of the answer depends on the origin
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        headers = {name: value for name, value in response.headers.items() if name not in ("content-length", "content-type")}
        return error_response(400, f"CORS preflight refused: {'; '.join(self._refused(request_headers))}.", headers=headers)

    def _refused(self, request_headers: Headers) -> list[str]:
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        refused = []
        if not self.is_allowed_origin(origin):
            refused.append(f"the origin {cut(origin, _MAX_SHOWN)} is not in --allowed-origins")
        if method not in self.allow_methods:
            refused.append(f"the method {cut(method, _MAX_SHOWN)} is not in --allowed-methods")
        asked = [] if self.allow_all_headers else request_headers.get("access-control-request-headers", "").split(",")
        if wrong := [name.strip() for name in asked if name.strip() and name.strip().lower() not in self.allow_headers]:
            refused.append(f"the headers {cut(', '.join(wrong), _MAX_SHOWN)} are not in --allowed-headers")
        return refused or ["pages of a public network may not call a private one"]


class _FailureInside:
    """Answers 500 to a bug while the headers of CORS can still be put on it; RequestIdMiddleware, which does the same, stands outside.

    An answer that has begun is left to that one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def watching_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, watching_send)
        except Exception:  # the process edge, as in RequestIdMiddleware
            if has_started:
                raise
            await failure_response(scope)(scope, receive, send)
