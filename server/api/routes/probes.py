"""GET /health, /version, /load, /metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway import __version__
from headway.server.api.deps import state_of
from headway.server.api.health import health_of
from headway.server.api.metrics import CONTENT_TYPE

_RETRY_AFTER_S = "5"


async def show_health(http: Request) -> Response:
    """200 when new work is taken, or the server was told to sleep; else 503, with the reason."""
    health = health_of(state_of(http))
    body = {"status": health.status, "phase": health.phase, "reason": health.reason}
    if health.is_healthy:
        return JSONResponse(body)
    return JSONResponse(body, 503, headers={"retry-after": _RETRY_AFTER_S})


async def show_version(http: Request) -> Response:
    return JSONResponse({"version": __version__})


async def show_load(http: Request) -> Response:
    """Requests that are being answered, by all API processes."""
    return JSONResponse({"server_load": state_of(http).load.num_requests})


async def show_metrics(http: Request) -> Response:
    return Response(await state_of(http).metrics.render(), headers={"content-type": CONTENT_TYPE})
