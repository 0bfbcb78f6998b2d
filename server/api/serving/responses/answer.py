"""The answer to a request for a response, to its client: the work ends with the client's patience."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from headway.server.api.serving.answer import Answer
from headway.server.api.serving.responses.form import ResponseForm
from headway.server.api.stream import ToldInStream
from headway.server.errors import HeadwayError


class ResponseAnswer:
    """See Answer. ``turn`` is a stream of the events that ``form`` writes. Closes ``turn``."""

    def __init__(self, turn: Answer, form: ResponseForm, *, is_stream: bool) -> None:
        self._turn = turn
        self._form = form
        self._is_stream = is_stream

    @property
    def is_stream(self) -> bool:
        return self._is_stream

    async def whole(self) -> bytes:
        async with aclosing(self._turn.chunks()) as pieces:
            async for _ in pieces:  # the form keeps what they say
                pass
        return self._form.encoded()

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        yield self._form.opening()
        try:
            async with aclosing(self._turn.chunks()) as pieces:
                async for events in pieces:
                    yield events
        except HeadwayError as error:
            yield self._form.failed(error)
            raise ToldInStream(error) from error

    async def aclose(self) -> None:
        await self._turn.aclose()
