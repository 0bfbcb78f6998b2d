"""From an HTTP request to an operation's answer, and from that to the HTTP response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.auth import owner_of
from headway.server.api.deadline import deadline_of
from headway.server.api.deps import Handler, client_request_id_of, record_of, request_id_of, state_of
from headway.server.api.disconnect import while_connected
from headway.server.api.media import JSON
from headway.server.api.protocol.base import RequestModel
from headway.server.api.protocol.parse import parse_request
from headway.server.api.routes.body import read_request
from headway.server.api.sagemaker.attributes import asked_adapter
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.operations import Operation
from headway.server.api.stream import EVENTS, ChunkStream, Framing
from headway.server.api.traces import span_of

_Model = TypeVar("_Model", bound=RequestModel)


def answering(operation: Operation[_Model]) -> Handler:
    """The handler of a route that says what is asked for: the whole way of a request."""

    async def handle(http: Request) -> Response:
        request = await read_request(http, lambda fields: parse_request(operation.model, fields))
        return await respond(http, await operation.open(state_of(http), await call_of(http), request), framing=operation.framing)

    return handle


async def call_of(http: Request) -> Call:
    """For a request whose body has been read."""
    return Call(
        request_id_of(http),
        client_request_id_of(http) is not None,
        num_bytes=len(await http.body()),
        deadline=deadline_of(http),
        span=span_of(http),
        adapter=asked_adapter(http.headers),
        record=record_of(http),
        owner=owner_of(http),
    )


async def respond(
    http: Request,
    answer: Answer,
    *,
    headers: Mapping[str, str] | None = None,
    framing: Framing = EVENTS,
    media_type: str = JSON,
) -> Response:
    """Sees to it that ``answer`` is closed: now, or with the end of the stream."""
    if answer.is_stream:
        silence_s = state_of(http).config.http.sse_keep_alive_interval
        return ChunkStream(answer.chunks(), answer.aclose, framing, headers, silence_s=silence_s)
    try:
        body = await while_connected(http.receive, answer.whole())
    finally:
        await answer.aclose()
    return Response(body, headers=dict(headers or {}), media_type=media_type)
