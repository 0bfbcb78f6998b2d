"""The WebSocket /invocations-bidirectional-stream: each message a request as for /invocations, answered in text frames of JSON.

An answer is one frame, or for a stream one frame a chunk and then END. An error is a frame ``{"error": ..}``, which ends its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from headway.server.api.auth import owner_of
from headway.server.api.deadline import begun
from headway.server.api.deps import AppState, client_request_id_of, record_of, request_id_of, state_of
from headway.server.api.errors import error_json, failure_json
from headway.server.api.media import decoded
from headway.server.api.off_loop import in_parser
from headway.server.api.protocol.parse import parse_object
from headway.server.api.sagemaker.attributes import asked_adapter, asked_route
from headway.server.api.sagemaker.understand import understand
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.traces import message_span
from headway.server.errors import HeadwayError

if TYPE_CHECKING:
    from headway.server.api.request_span import RequestSpan

END = b'{"object":"stream.end"}'
MAX_WAITING = 16  # messages behind the one that is being answered
_GOING_AWAY, _TRY_AGAIN_LATER = 1001, 1013
_GONE = 0  # the client has left: there is nobody to close with
_REASONS = {_GOING_AWAY: "the server is shutting down", _TRY_AGAIN_LATER: "too many messages wait; send the next when one is answered"}


async def converse(websocket: WebSocket) -> None:
    state = state_of(websocket)
    await websocket.accept()
    with state.drain.holding(), state.metrics.websocket_connected():
        await _Conversation(state, websocket).run()


class _Conversation:
    """One connection: a task reads, so that a client that leaves is noticed at once; another answers, one message after the other."""

    def __init__(self, state: AppState, websocket: WebSocket) -> None:
        self._state = state
        self._websocket = websocket
        self._max_waiting_bytes = state.config.overload.max_request_body_bytes
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._num_waiting_bytes = 0
        self._numbers = itertools.count()  # of messages

    async def run(self) -> None:
        """Until the client goes, sends faster than it is answered, or the server drains."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._answer_all())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        code = min(task.result() for task in done)
        if code != _GONE:
            with contextlib.suppress(WebSocketDisconnect):
                await self._websocket.close(code, _REASONS[code])

    async def _read(self) -> int:
        """Puts messages in line. Returns the code to close with, or _GONE."""
        while (event := await self._websocket.receive())["type"] != "websocket.disconnect":
            text = event.get("text")
            message: bytes = event["bytes"] if text is None else text.encode()
            num_bytes = self._num_waiting_bytes + len(message)
            if self._waiting.full() or num_bytes > self._max_waiting_bytes:
                return _TRY_AGAIN_LATER
            self._num_waiting_bytes = num_bytes
            self._waiting.put_nowait(message)
        return _GONE

    async def _answer_all(self) -> int:
        """One message after the other, until the server drains. Returns the code to close with, or _GONE."""
        draining: asyncio.Future[Any] = asyncio.ensure_future(self._state.drain.begun())
        try:
            while (message := await self._next(draining)) is not None:
                with self._state.load.counted():
                    await self._answer(message)
        except WebSocketDisconnect:
            return _GONE
        finally:
            draining.cancel()
        return _GOING_AWAY

    async def _next(self, draining: asyncio.Future[Any]) -> bytes | None:
        """None once the server drains."""
        getting: asyncio.Future[Any] = asyncio.ensure_future(self._waiting.get())
        try:
            await asyncio.wait([getting, draining], return_when=asyncio.FIRST_COMPLETED)
            if draining.done():
                return None
            message: bytes = getting.result()
        finally:
            getting.cancel()
        self._num_waiting_bytes -= len(message)
        return message

    async def _answer(self, message: bytes) -> None:
        """In frames. Raises WebSocketDisconnect."""
        request_id = f"{request_id_of(self._websocket)}-{next(self._numbers)}"
        try:
            with message_span(self._state.tracing, self._websocket) as span:
                await self._understand_and_send(message, request_id, span)
        except WebSocketDisconnect:
            raise
        except HeadwayError as error:
            await self._send_frame(error_json(error))
        except Exception:  # the process edge of this message: the connection can still be used
            await self._send_frame(failure_json(request_id, " on its WebSocket"))

    async def _understand_and_send(self, message: bytes, request_id: str, span: RequestSpan | None) -> None:
        """Raises HeadwayError, WebSocketDisconnect."""
        headers = self._websocket.headers
        # A message's time begins with its turn: how many wait before it is the client's own choice.
        deadline = begun(self._websocket, self._state.config.overload.request_timeout)
        call = Call(
            request_id,
            client_request_id_of(self._websocket) is not None,
            num_bytes=len(message),
            deadline=deadline,
            span=span,
            adapter=asked_adapter(headers),
            record=record_of(self._websocket),
            owner=owner_of(self._websocket),
        )
        route = asked_route(headers)
        invocation = await in_parser(len(message), lambda: understand(route, parse_object(decoded(message, None))))
        answer = await invocation.open(self._state, call)
        try:
            await self._send(answer)
        finally:
            await answer.aclose()

    async def _send(self, answer: Answer) -> None:
        if not answer.is_stream:
            await self._send_frame(await answer.whole())
            return
        async with aclosing(answer.chunks()) as batches:
            async for chunks in batches:
                for chunk in chunks:
                    await self._send_frame(chunk)
        await self._send_frame(END)

    async def _send_frame(self, text: bytes) -> None:
        await self._websocket.send_text(text.decode())
