"""What is kept of responses, below /v1/responses/{response_id}."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from headway.server.api.auth import owner_of
from headway.server.api.deps import state_of
from headway.server.api.json_text import encode
from headway.server.api.media import JSON
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_request
from headway.server.api.protocol.responses import ListInputItems, RetrieveResponse
from headway.server.api.responses_store import RunningResponse, StoredResponse
from headway.server.api.stream import TYPED_EVENTS, ChunkStream
from headway.server.errors import RequestError

_Model = TypeVar("_Model", bound=RequestModel)


async def retrieve(http: Request) -> Response:
    query, found = _query(http, RetrieveResponse), _found(http)
    if not query.stream:
        return Response(_json_of(found), media_type=JSON)
    if found.events is None:
        raise RequestError("Only a background response that was asked for with stream can be streamed again; leave stream out.", "stream")
    start = 0 if query.starting_after is None else query.starting_after + 1
    silence_s = state_of(http).config.http.sse_keep_alive_interval
    return ChunkStream(found.events.follow(start), _nothing, TYPED_EVENTS, silence_s=silence_s)


async def delete(http: Request) -> Response:
    """One that runs is ended first."""
    found = await _ended(http)
    state_of(http).responses.forget(found)
    return JSONResponse({"id": found.id, "object": "response", "deleted": True})


async def cancel(http: Request) -> Response:
    found = _found(http)
    if isinstance(found, StoredResponse) and not found.is_background:
        raise RequestError("Only a background response can be cancelled; leave the stream of another one to end it.", "response_id")
    return Response((await _ended(http)).response, media_type=JSON)


async def list_input_items(http: Request) -> Response:
    query, found = _query(http, ListInputItems), _found(http)
    return Response(await off_loop(len(found.input), lambda: _page(found.input, query)), media_type=JSON)


def _page(encoded: bytes, query: ListInputItems) -> bytes:
    items: list[dict[str, Any]] = msgspec.json.decode(encoded)
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        at = next((at for at, item in enumerate(items) if item["id"] == query.after), None)
        if at is None:
            raise RequestError("after must be the id of one of the items.", "after")
        items = items[at + 1 :]
    page = items[: query.limit]
    ids = [item["id"] for item in page] or [""]
    return encode({"object": "list", "data": page, "first_id": ids[0], "last_id": ids[-1], "has_more": len(items) > query.limit})


def _query(http: Request, model: type[_Model]) -> _Model:
    """Raises RequestError."""
    return parse_request(model, dict(http.query_params))


def _found(http: Request) -> StoredResponse | RunningResponse:
    """Raises ResponseNotFound."""
    return state_of(http).responses.find(owner_of(http), http.path_params["response_id"])


async def _ended(http: Request) -> StoredResponse:
    """What is asked for, ended if it was not. Raises ResponseNotFound."""
    found = _found(http)
    if not isinstance(found, StoredResponse):
        await found.cancel()
        found = _found(http)
    assert isinstance(found, StoredResponse), "its end is kept"
    return found


def _json_of(found: StoredResponse | RunningResponse) -> bytes:
    return found.response if isinstance(found, StoredResponse) else found.snapshot()


async def _nothing() -> None:
    """For streams that hold nothing."""
