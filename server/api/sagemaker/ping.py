"""GET, POST and HEAD /ping: SageMaker's health check. 200 when requests are served, else 503 with the reason."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.routes.probes import show_health


async def ping(http: Request) -> Response:
    return await show_health(http)
