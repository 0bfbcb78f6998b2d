"""The router's application: its own few paths, and the proxy for all others."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.access_log import AccessLogMiddleware
from headway.server.api.errors import ClientDisconnected, error_response, response_to
from headway.server.api.middleware import BodyLimitMiddleware, Draining, GoElsewhereMiddleware, RequestIdMiddleware
from headway.server.config.logs import PROBES
from headway.server.counts import Count, Counts
from headway.server.errors import HeadwayError, ServerDraining
from headway.server.router.config import RouterConfig
from headway.server.router.fleet import Fleet
from headway.server.router.metrics import CONTENT_TYPE, RouterMetrics

_RETRY_AFTER = {"retry-after": "5"}


class RouterApp:
    """An ASGI application. ``counts`` has the requests that are not answered to their end; after ``drain`` there come no more."""

    def __init__(
        self, config: RouterConfig, fleet: Fleet, prefill: Fleet | None, proxy: ASGIApp, metrics: RouterMetrics, counts: Counts
    ) -> None:
        """``prefill``: the half of the servers that only prepares. Without it the others answer all the same."""
        self._counts = counts
        self.is_draining = False
        self._fleet = fleet
        self._prefill = prefill
        self._proxy = proxy
        self._metrics = metrics
        self._stack: ASGIApp = self._answer
        for middleware in reversed(_middleware(config, self)):
            self._stack = middleware.cls(self._stack, *middleware.args, **middleware.kwargs)

    def drain(self) -> None:
        self.is_draining = True
        self._counts.set(Count.IS_DRAINING, 1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stack(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            refusal = error_response(501, "This router passes no WebSockets on; connect to a server itself.")
            await refusal(scope, receive, send)
            return
        match scope["path"]:
            case "/ping" | "/health":
                await self._health()(scope, receive, send)
            case "/metrics":
                await Response(self._metrics.render(), headers={"content-type": CONTENT_TYPE})(scope, receive, send)
            case _:
                await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._counts.add(Count.OPEN_REQUESTS, 1)
        try:
            if self.is_draining:
                raise ServerDraining("The router is shutting down and takes no new work.")
            await self._proxy(scope, receive, send)
        except ClientDisconnected:
            return
        except HeadwayError as error:  # of the proxy: no answer has begun
            await response_to(error)(scope, receive, send)
        finally:
            self._counts.add(Count.OPEN_REQUESTS, -1)

    def _health(self) -> Response:
        """Open to everybody: numbers, and no address of a server."""
        num_healthy, num_servers = self._fleet.num_healthy, len(self._fleet.servers)
        status = "draining" if self.is_draining else "healthy" if num_healthy else "unhealthy"
        body = {"status": status, "healthy_servers": num_healthy, "servers": num_servers}
        if self._prefill is not None:
            body |= {"healthy_prefill_servers": self._prefill.num_healthy, "prefill_servers": len(self._prefill.servers)}
        return JSONResponse(body) if status == "healthy" else JSONResponse(body, 503, headers=_RETRY_AFTER)


def _middleware(config: RouterConfig, drain: Draining) -> list[Middleware]:
    """Outermost first."""
    stack = [Middleware(AccessLogMiddleware, unlogged=PROBES)] if config.logs.access_log else []
    return [
        *stack,
        Middleware(GoElsewhereMiddleware, drain=drain),
        Middleware(RequestIdMiddleware, put_on_answers=True),
        Middleware(BodyLimitMiddleware, max_bytes=config.routing.max_request_body_bytes),
    ]
