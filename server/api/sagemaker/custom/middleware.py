"""Around every route: a user's middleware, which is a function (request, call_next), an ASGI class, or formatters."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.deps import Drain
from headway.server.api.routes.body import read_body
from headway.server.api.sagemaker.custom.calls import Function, UserFunction, in_our_form
from headway.server.errors import ConfigError

_CallNext = Callable[[Request], Awaitable[Response]]
_Wrapper = Callable[[Request, _CallNext], Awaitable[Response]]


def as_middleware(middleware: Function, option: str) -> Middleware:
    """Raises ConfigError that names ``option``."""
    if inspect.isclass(middleware):
        return Middleware(cast("Any", middleware))
    function = UserFunction(middleware, "request, call_next", option)
    if not function.is_async:
        raise ConfigError([f"{option}: {getattr(middleware, '__qualname__', middleware)} must be an async function: it awaits call_next"])
    return Middleware(_Around, wrapper=function)


def formatters(before: Function | None, behind: Function | None, options: tuple[str, str]) -> Middleware:
    """``before`` gets the request and ``behind`` the response; each may change it, and return it or nothing."""
    pre = UserFunction(before, "request", options[0]) if before else None
    post = UserFunction(behind, "response", options[1]) if behind else None

    async def wrapper(request: Request, call_next: _CallNext) -> Response:
        if pre is not None:
            changed = await pre(request)
            if isinstance(changed, Request) and changed is not request:
                request._body = await changed.body()
        response = await call_next(request)
        if post is None:
            return response
        changed = await post(response)
        return changed if isinstance(changed, Response) else response

    return Middleware(_Around, wrapper=wrapper)


class HoldDrain:
    """Makes the exit wait for every request: the engine does not know of one whose handler is still busy, or busy again."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self._drain.holding():
            await self.app(scope, receive, send)


class _Around(BaseHTTPMiddleware):
    """Starlette's, which hands a changed ``request._body`` on. Here the wrapper also sees the body of an answer that is no stream."""

    def __init__(self, app: ASGIApp, wrapper: _Wrapper) -> None:
        super().__init__(app)
        self._wrapper = wrapper

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        async def call_whole(changed: Request) -> Response:
            await read_body(request)  # here, since out of call_next its errors would come in a group
            return await _whole(await call_next(changed))

        response = await in_our_form(self._wrapper(request, call_whole))
        if "content-length" in response.headers and isinstance(getattr(response, "body", None), bytes):
            response.headers["content-length"] = str(len(response.body))
        return response


async def _whole(response: Response) -> Response:
    """A response with its ``body``, if it is not streamed: streams have no length."""
    if "content-length" not in response.headers:
        return response
    pieces: list[bytes] = [piece async for piece in cast("Any", response).body_iterator]
    whole = Response(b"".join(pieces), response.status_code)
    whole.raw_headers = response.raw_headers
    return whole
