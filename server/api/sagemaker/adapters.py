"""SageMaker's routes for adapters: POST and GET /adapters, GET and DELETE /adapters/{name}, POST /adapters/{name}/update."""

from __future__ import annotations

from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.adapters import Adapter, AdapterRegistry
from headway.server.api.deps import state_of
from headway.server.api.protocol.adapters import RegisterAdapterRequest, UpdateAdapterRequest
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.body import read_body, read_request
from headway.server.errors import RequestError

# The name by which the caller of the platform knows an adapter whose own name the platform made up.
ALIAS = "x-amzn-sagemaker-adapter-alias"
_MAX_LIMIT = 1000
_Model = TypeVar("_Model", bound=RequestModel)


async def register(http: Request) -> Response:
    adapters = ready_adapters(http)
    request = await _read(http, RegisterAdapterRequest)
    await adapters.register(request.name, request.src, preload=request.preload, pin=request.pin)
    return _status(http, request.name, "registered")


async def update(http: Request) -> Response:
    adapters, name = ready_adapters(http), http.path_params["name"]
    request = await _read(http, UpdateAdapterRequest)
    await adapters.update(name, src=request.src, preload=request.preload, pin=request.pin)
    return _status(http, name, "updated")


async def unregister(http: Request) -> Response:
    name = http.path_params["name"]
    await ready_adapters(http).unregister(name)
    return _status(http, name, "unregistered")


async def list_all(http: Request) -> Response:
    """A page: ``next_page_token`` of the query is the ``nextPageToken`` of the page before."""
    state_of(http).adapters.check_enabled()
    adapters = state_of(http).adapters.all()
    limit, start = _number(http, "limit", 100, 1, _MAX_LIMIT), _number(http, "next_page_token", 0, 0, 2**31)
    page: dict[str, Any] = {"adapters": [_card(http, adapter) for adapter in adapters[start : start + limit]]}
    if start + limit < len(adapters):
        page["nextPageToken"] = str(start + limit)
    return JSONResponse(page)


async def describe(http: Request) -> Response:
    """A list of one, as LMI has it."""
    state_of(http).adapters.check_enabled()
    return JSONResponse([_card(http, state_of(http).adapters.get(http.path_params["name"]))])


def ready_adapters(http: Request) -> AdapterRegistry:
    """For a change. Raises RequestError where adapters are off, and the errors of deps.ready_model."""
    state = state_of(http)
    state.adapters.check_enabled()
    state.ready_model()
    return state.adapters


async def _read(http: Request, model: type[_Model]) -> _Model:
    """From the body, or from the query where there is no body: LMI's form."""
    if not await read_body(http):
        return parse_request(model, dict(http.query_params))
    return await read_request(http, lambda fields: parse_request(model, fields))


def _status(http: Request, name: str, what: str) -> Response:
    shown = http.headers.get(ALIAS) or name
    return JSONResponse({"status": f"Adapter {shown} {what}"})


def _card(http: Request, adapter: Adapter) -> dict[str, Any]:
    is_loaded = state_of(http).adapters.is_loaded(adapter)
    return {"name": adapter.name, "src": adapter.src, "pin": adapter.pin, "loaded": is_loaded}


def _number(http: Request, name: str, default: int, low: int, high: int) -> int:
    text = http.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise RequestError(f"{name} must be a whole number from {low} to {high}, got {text[:40]!r}.", name)
    return int(text)
