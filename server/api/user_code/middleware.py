"""A user's middleware: an async function (request, call_next) or an ASGI class, by its dotted path (--middleware) or from a script."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.deps import Drain
from headway.server.api.user_code.calls import Function, UserFunction, accepts, in_our_form
from headway.server.errors import ConfigError
from headway.server.user_modules import UserModules
from headway.server.words import cut

log = logging.getLogger(__name__)

Wrapper = Callable[[Request, RequestResponseEndpoint], Awaitable[Response]]
_OPTION = "--middleware"
_MAX_SHOWN = 200


def load_middleware(paths: Sequence[str]) -> list[Middleware]:
    """Outermost first, which is the last of ``paths``. Raises ConfigError, with one sentence, for what can't be used."""
    modules = UserModules(Path.cwd(), None)
    return [as_middleware(modules.imported(path, _OPTION), f"{_OPTION} {path}") for path in reversed(paths)]


def as_middleware(middleware: Function, option: str, around: type[Around] | None = None) -> Middleware:
    """``around`` is how a function is put around the application. Raises ConfigError that names ``option``."""
    name = getattr(middleware, "__qualname__", repr(middleware))
    if inspect.isclass(middleware):
        if not accepts(middleware, 1) or not inspect.iscoroutinefunction(getattr(middleware, "__call__", None)):  # noqa: B004
            raise ConfigError([f"{option}: {name} is no ASGI class, which takes (app) and has async __call__(self, scope, receive, send)"])
        return Middleware(_Made, middleware=middleware, option=option)
    function = UserFunction(middleware, "request, call_next", option)
    if not function.is_async:
        raise ConfigError([f"{option}: {name} must be an async function: it awaits call_next"])
    return Middleware(around or Around, wrapper=function)


class Around(BaseHTTPMiddleware):
    """Starlette's, which hands a changed ``request._body`` on, a stream piece by piece, and a disconnect to who works for the client."""

    def __init__(self, app: ASGIApp, wrapper: Wrapper) -> None:
        super().__init__(app)
        self._wrapper = wrapper

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await in_our_form(self._wrapper(request, call_next))


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


class _Made:
    """An object of a user's class. Raises ConfigError where its making fails, which the start is for."""

    def __init__(self, app: ASGIApp, middleware: Callable[[ASGIApp], Any], option: str) -> None:
        try:
            self.app: ASGIApp = middleware(app)
        except Exception as error:  # the edge to code that is not ours
            log.error("%s can't be made", option, exc_info=error)
            what = cut(" ".join(f"{type(error).__name__}: {error}".split()), _MAX_SHOWN)
            raise ConfigError([f"{option}: it can't be made: {what}; the log has the traceback"]) from error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
