"""From an open Generation to the answer: whole or streamed, in the shape that a family's format gives it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.deps import AppState, client_request_id_of, request_id_of
from headway.server.api.disconnect import while_connected
from headway.server.api.protocol.base import GenerationFields
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Generation, Usage
from headway.server.api.sse import EventStream


@dataclass(frozen=True, slots=True)
class Call:
    """What the HTTP side tells about a generation request. ``arrival`` is time.time()."""

    http: Request
    request_id: str
    arrival: float
    response_headers: Mapping[str, str]

    @classmethod
    def of(cls, http: Request, request: GenerationFields, response_headers: Mapping[str, str] | None = None) -> Call:
        """The client's X-Request-Id goes before the body's request_id, and that before a fresh one."""
        request_id = client_request_id_of(http) or request.request_id or request_id_of(http)
        return cls(http, request_id, time.time(), response_headers or {})


class AnswerFormat(Protocol):
    """How one family writes answers."""

    def events(self, delta: ChoiceDelta, usage: Usage | None) -> bytes:
        """Framed events for a piece of a choice; empty where there is nothing to tell."""
        ...

    def usage_event(self, usage: Usage) -> bytes: ...

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        """The whole answer, of whole choices in order."""
        ...


async def answer(state: AppState, call: Call, request: GenerationFields, generation: Generation, form: AnswerFormat) -> Response:
    """Sees to it that ``generation`` is closed: now, or with the end of the stream."""
    if request.stream:
        force = state.config.http.enable_force_include_usage
        return EventStream(_events(request, generation, form, force_usage=force), generation.aclose, call.response_headers)
    try:
        body = await while_connected(call.http.receive, _whole(generation, form))
    finally:
        await generation.aclose()
    return Response(msgspec.json.encode(body), headers=dict(call.response_headers), media_type="application/json")


async def _whole(generation: Generation, form: AnswerFormat) -> dict[str, Any]:
    whole: dict[int, ChoiceDelta] = {}
    async with aclosing(generation.batches()) as batches:
        async for batch in batches:
            for delta in batch:
                if (so_far := whole.get(delta.index)) is None:
                    whole[delta.index] = delta
                else:
                    so_far.extend(delta)
    return form.body([whole[index] for index in sorted(whole)], generation.usage())


async def _events(
    request: GenerationFields, generation: Generation, form: AnswerFormat, *, force_usage: bool
) -> AsyncGenerator[bytes, None]:
    options = request.stream_options
    has_usage = force_usage or (options is not None and options.include_usage)
    is_continuous = force_usage or (options is not None and options.include_usage and options.continuous_usage_stats)
    async with aclosing(generation.batches()) as batches:
        async for batch in batches:
            usage = generation.usage() if is_continuous else None
            if events := b"".join([form.events(delta, usage) for delta in batch]):
                yield events
    if has_usage:
        yield form.usage_event(generation.usage())
