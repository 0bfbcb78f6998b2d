"""The HTTP application: middleware as a visible list, routes from one table, errors from one map."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from headway import __version__
from headway.server.api.access_log import AccessLogMiddleware, has_access_log
from headway.server.api.adapter_metrics import AdapterCollector
from headway.server.api.adapters import AdapterRegistry
from headway.server.api.auth import ApiKeyMiddleware
from headway.server.api.deps import AppState, Drain, Served
from headway.server.api.errors import on_headway_error, on_http_exception
from headway.server.api.metrics import Metrics
from headway.server.api.middleware import BodyLimitMiddleware, HttpMetricsMiddleware, RequestIdMiddleware
from headway.server.api.openapi import document
from headway.server.api.routes.table import ROUTES, WEBSOCKETS, template_of
from headway.server.api.sagemaker.custom.engine_client import EngineClientForScripts
from headway.server.api.sagemaker.custom.loading import CustomHandlers
from headway.server.api.sagemaker.custom.middleware import HoldDrain
from headway.server.api.sagemaker.handlers import replaced_handlers
from headway.server.api.stats_log import StatsLog
from headway.server.config.server import ServerConfig
from headway.server.engine.client import EngineClient
from headway.server.errors import HeadwayError


def create_app(
    config: ServerConfig,
    engine: EngineClient,
    served: Served,
    drain: Drain,
    adapters: AdapterRegistry,
    custom: CustomHandlers | None = None,
) -> FastAPI:
    """The application; it answers from the first moment, with 503 and the reason until engine and model are ready.

    The caller makes all of these and keeps them: it loads ``served`` and calls its ``set_ready``, begins ``drain``, and has
    ``adapters`` load those of the start.
    """
    metrics = Metrics(config, engine, served.name)
    if adapters.is_enabled and metrics.requests is not None:
        metrics.registry.register(AdapterCollector(adapters))
    with_docs = not config.http.disable_fastapi_docs
    app = FastAPI(
        title="Headway",
        version=__version__,
        docs_url="/docs" if with_docs else None,
        redoc_url="/redoc" if with_docs else None,
        openapi_url="/openapi.json" if with_docs else None,
        redirect_slashes=False,
        middleware=_middleware(config, metrics, drain, custom),
        exception_handlers={HeadwayError: on_headway_error, HTTPException: on_http_exception},
        lifespan=_lifespan(engine, metrics),
    )
    state = app.state.headway = AppState(config, engine, served, drain, metrics, adapters)
    if custom:
        app.state.engine_client = EngineClientForScripts(state)
    replaced = replaced_handlers(config.sagemaker, metrics, custom)
    for route in ROUTES:
        handler = replaced.get(route.path, route.handler)
        app.add_route(route.path, handler, methods=route.methods.split())
    if with_docs:
        # How FastAPI would have it done; made when it is first asked for.
        app.openapi = partial(document, has_key=bool(config.security.api_key))  # type: ignore[method-assign]
    app.router.routes.extend(WEBSOCKETS)
    return app


def _middleware(config: ServerConfig, metrics: Metrics, drain: Drain, custom: CustomHandlers | None) -> list[Middleware]:
    """Outermost first. The user's own code comes last: what has no key, or is too large, does not reach it."""
    stack = [Middleware(AccessLogMiddleware)] if has_access_log(config.logs) else []
    stack += [
        Middleware(RequestIdMiddleware, put_on_answers=config.http.enable_request_id_headers),
        Middleware(HttpMetricsMiddleware, metrics=metrics.http, template_of=template_of),
        Middleware(BodyLimitMiddleware, max_bytes=config.overload.max_request_body_bytes),
    ]
    if config.security.api_key:
        stack.append(Middleware(ApiKeyMiddleware, keys=config.security.api_key))
    if custom:
        stack += [Middleware(HoldDrain, drain=drain), *custom.middleware]
    return stack


def _lifespan(engine: EngineClient, metrics: Metrics) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks: list[asyncio.Task[Any]] = []
        if metrics.requests is not None:
            tasks.append(asyncio.create_task(StatsLog(engine, metrics.requests).run()))
        yield
        for task in tasks:
            task.cancel()

    return lifespan
