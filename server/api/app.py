"""The HTTP application: middleware as a visible list, routes from one table, errors from one map."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from headway import __version__
from headway.server.api.access_log import AccessLogMiddleware, has_access_log
from headway.server.api.adapter_metrics import AdapterCollector
from headway.server.api.adapters import AdapterRegistry
from headway.server.api.auth import ApiKeyMiddleware
from headway.server.api.cors import CorsMiddleware
from headway.server.api.deps import AppState, Drain, Served
from headway.server.api.errors import on_headway_error, on_http_exception
from headway.server.api.keys import ApiKeys
from headway.server.api.load import LoadMiddleware, ServerLoad
from headway.server.api.metrics import Metrics
from headway.server.api.middleware import BodyLimitMiddleware, GoElsewhereMiddleware, HttpMetricsMiddleware, RequestIdMiddleware
from headway.server.api.openapi import document
from headway.server.api.orca import OrcaMiddleware
from headway.server.api.overload import OverloadMiddleware
from headway.server.api.paths import GENERATION_PATHS, INFERENCE_PATHS, POOLING_PATHS
from headway.server.api.routes.table import WEBSOCKETS, routes_of, template_of
from headway.server.api.sagemaker.custom.engine_client import EngineClientForScripts
from headway.server.api.sagemaker.custom.loading import CustomHandlers
from headway.server.api.sagemaker.handlers import replaced_handlers
from headway.server.api.server_metrics import ServerCollector
from headway.server.api.stats_log import StatsLog
from headway.server.api.user_code.middleware import HoldDrain, load_middleware
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.engine.client import EngineClient
from headway.server.errors import HeadwayError

if TYPE_CHECKING:
    from headway.server.api.tracing import Tracing


def create_app(
    config: ServerConfig,
    engine: EngineClient,
    served: Served,
    drain: Drain,
    adapters: AdapterRegistry,
    custom: CustomHandlers | None = None,
    phases: Mapping[str, float] | None = None,
    tracing: Tracing | None = None,
    *,
    counts: Counts,
) -> FastAPI:
    """The application; it answers from the first moment, with 503 and the reason until engine and model are ready.

    The caller makes all of these and keeps them: it loads ``served`` and calls its ``set_ready``, begins ``drain``, and has
    ``adapters`` load those of the start. ``phases`` are those of the start that have ended by then, with their seconds, told in metrics.
    Raises ConfigError for keys and for code of the user's that can't be used.
    """
    metrics = Metrics(config, engine, served.name, counts)
    load = ServerLoad(config.observability.enable_server_load_tracking, counts)
    state = AppState(config, engine, served, drain, metrics, adapters, load, counts, tracing)
    # Over several processes each scrape meets another one, and only the leader has phases.
    _add_metrics(state, phases if phases is not None and counts.num_processes == 1 else {})
    keys = ApiKeys(config.security)
    with_docs = not config.http.disable_fastapi_docs
    app = FastAPI(
        title="Headway",
        version=__version__,
        docs_url="/docs" if with_docs else None,
        redoc_url="/redoc" if with_docs else None,
        openapi_url="/openapi.json" if with_docs else None,
        redirect_slashes=False,
        middleware=_middleware(state, keys, custom),
        exception_handlers={HeadwayError: on_headway_error, HTTPException: on_http_exception},
        lifespan=_lifespan(state, keys),
    )
    app.state.headway = state
    if custom:
        app.state.engine_client = EngineClientForScripts(state)
    replaced = replaced_handlers(config.sagemaker, metrics, custom)
    routes = routes_of(config.development)
    for route in routes:
        handler = replaced.get(route.path, route.handler)
        app.add_route(route.path, handler, methods=route.methods.split())
    if with_docs:
        # How FastAPI would have it done; made when it is first asked for.
        security = config.security
        described = partial(document, routes, has_key=security.has_keys, open_prefixes=security.api_key_open_prefixes)
        app.openapi = cache(described)  # type: ignore[method-assign]
    app.router.routes.extend(WEBSOCKETS)
    app.middleware_stack = app.build_middleware_stack()  # now: what fails in a class of the user's ends the start
    return app


def _add_metrics(state: AppState, phases: Mapping[str, float]) -> None:
    """Those whose values the metrics themselves don't know."""
    metrics, adapters = state.metrics, state.adapters
    metrics.add(ServerCollector(state, phases))
    if adapters.is_enabled and metrics.has_statistics:
        metrics.add(AdapterCollector(state.config.observability.metrics_prefix, adapters))
    state.served.when_ready(metrics.on_ready)


def _middleware(state: AppState, keys: ApiKeys, custom: CustomHandlers | None) -> list[Middleware]:
    """Outermost first. What --middleware names sees every request, too large ones apart; SageMaker's custom code, which comes last,
    sees none without a key."""
    config = state.config
    stack = [state.tracing.middleware()] if state.tracing is not None else []
    if has_access_log(config.logs):
        stack.append(Middleware(AccessLogMiddleware, unlogged=config.logs.disable_access_log_for_endpoints))
    stack += [
        Middleware(GoElsewhereMiddleware, drain=state.drain),
        Middleware(RequestIdMiddleware, put_on_answers=config.http.enable_request_id_headers),
        Middleware(HttpMetricsMiddleware, metrics=state.metrics.http, template_of=template_of),
        Middleware(BodyLimitMiddleware, max_bytes=config.overload.max_request_body_bytes),
    ]
    security = config.security
    if own := load_middleware(config.extension.middleware):
        stack += [Middleware(HoldDrain, drain=state.drain), *own]
    stack.append(Middleware(CorsMiddleware, cors=config.cors))
    if security.has_keys:
        stack.append(Middleware(ApiKeyMiddleware, keys=keys, open_prefixes=security.api_key_open_prefixes))
    timeout_s = config.overload.request_timeout
    stack += [
        Middleware(OverloadMiddleware, engine=state.engine, metrics=state.metrics, request_timeout_s=timeout_s),
        Middleware(LoadMiddleware, load=state.load, paths=INFERENCE_PATHS),
        Middleware(OrcaMiddleware, engine=state.engine, paths=GENERATION_PATHS | POOLING_PATHS),
    ]
    if custom:
        stack += [Middleware(HoldDrain, drain=state.drain), *custom.middleware]
    return stack


def _lifespan(state: AppState, keys: ApiKeys) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(keys.watch())]
        if state.metrics.has_statistics and state.counts.is_leader:
            stats_log = StatsLog(state.engine, state.metrics.throughput, state.config.observability.stats_interval_s)
            tasks.append(asyncio.create_task(stats_log.run()))
        if state.tracing is not None:
            state.tracing.start()
        yield
        await state.responses.close()
        for task in tasks:
            task.cancel()
        if state.tracing is not None:  # last, since what ended in the meantime has spans
            await state.tracing.stop()

    return lifespan
