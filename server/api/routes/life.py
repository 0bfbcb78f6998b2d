"""Routes that stop and start the engine, for whoever operates the server: /sleep, /wake_up, /pause, /resume and their questions."""

from __future__ import annotations

from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.deps import AppState, state_of
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.life import NoParameters, PauseRequest, ResetPrefixCacheRequest, SleepRequest, WakeUpRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.body import read_body
from headway.server.errors import RequestError, ServerDraining, SleepConflict

_Model = TypeVar("_Model", bound=RequestModel)
_LISTS = ("tags",)


async def sleep(http: Request) -> Response:
    """Answers once the engine sleeps. A client that leaves meanwhile changes nothing."""
    request, state = await parameters(http, SleepRequest), _running(http)
    with state.metrics.timed_sleep("sleep"):
        await state.engine.sleep(request.level, request.mode)
    return JSONResponse({"status": "sleeping", "level": request.level})


async def wake_up(http: Request) -> Response:
    request, state = await parameters(http, WakeUpRequest), _running(http)
    with state.metrics.timed_sleep("wake_up"):
        await state.engine.wake_up(request.tags)
    return JSONResponse({"status": "sleeping" if state.engine.sleep_state.is_asleep else "awake", "tags": request.tags})


async def is_sleeping(http: Request) -> Response:
    await parameters(http, NoParameters)
    return JSONResponse({"is_sleeping": state_of(http).engine.sleep_state.is_asleep})


async def pause(http: Request) -> Response:
    """Sleep at level 0."""
    request, state = await parameters(http, PauseRequest), _running(http)
    await state.engine.sleep(0, request.mode)
    if request.clear_cache:
        await state.engine.reset_prefix_cache(preempt_running=True)
    return JSONResponse({"status": "paused"})


async def resume(http: Request) -> Response:
    await parameters(http, NoParameters)
    engine = _running(http).engine
    if level := engine.sleep_level:
        raise SleepConflict(f"The engine is asleep at level {level}, not paused: use /wake_up.")
    await engine.wake_up(["scheduling"])
    return JSONResponse({"status": "resumed"})


async def is_paused(http: Request) -> Response:
    await parameters(http, NoParameters)
    return JSONResponse({"is_paused": state_of(http).engine.sleep_state.is_asleep})


async def reset_prefix_cache(http: Request) -> Response:
    request, state = await parameters(http, ResetPrefixCacheRequest), _running(http)
    return JSONResponse({"success": await state.engine.reset_prefix_cache(request.reset_running_requests)})


async def parameters(http: Request, model: type[_Model]) -> _Model:
    """From the query. Raises RequestError, for a body too: what it says would have no effect."""
    if (await read_body(http)).strip() not in (b"", b"{}"):
        raise RequestError(f"{http.url.path} takes its parameters in the query, such as ?name=value; leave the body empty.")
    query = http.query_params
    given: dict[str, Any] = {name: query.getlist(name) if name in _LISTS else query[name] for name in query}
    return parse_request(model, given)


def _running(http: Request) -> AppState:
    """For a change: a server on its way out makes none. Raises ServerDraining."""
    state = state_of(http)
    if state.drain.is_draining:
        raise ServerDraining("The server is shutting down.")
    return state
