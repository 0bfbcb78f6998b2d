"""A response that nobody waits for: it runs until it ends, is cancelled, or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

from headway.server.api.deps import AppState
from headway.server.api.errors import GenerationFailed, failure_body
from headway.server.api.responses_store import EventLog, StoredResponse
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.serving.responses.conversation import Conversation
from headway.server.api.serving.responses.form import ResponseForm
from headway.server.errors import HeadwayError

if TYPE_CHECKING:
    from headway.server.api.request_span import RequestSpan


class BackgroundResponse:
    """See RunningResponse. ``keeps_events``: it was asked for as a stream. ``begin`` comes first, once the turn is open."""

    def __init__(self, state: AppState, call: Call, response_id: str, conversation: Conversation, *, keeps_events: bool) -> None:
        self.id = response_id
        self.owner = call.owner
        self.input = conversation.input
        self.events = EventLog() if keeps_events else None
        self._history = conversation.history
        self._state = state
        self._request_id = call.request_id
        self._response = b""  # set by the end
        self._form: ResponseForm | None = None
        self._task: asyncio.Task[None] | None = None

    def on_end(self, response: bytes) -> None:
        """For the form."""
        self._response = response

    async def begin(self, turn: Answer, form: ResponseForm, span: RequestSpan | None) -> None:
        """Closes ``turn`` in the end, and ends ``span``."""
        self._form = form
        self._tell(form.opening())
        self._state.responses.run(self)
        self._task = asyncio.create_task(self._run(turn, form, span))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun does nothing, not even end its turn

    def snapshot(self) -> bytes:
        assert self._form is not None, "it has begun"
        return self._form.encoded()

    async def cancel(self) -> None:
        assert self._task is not None, "it has begun"
        if not self._task.cancelling():
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self, turn: Answer, form: ResponseForm, span: RequestSpan | None) -> None:
        with self._state.drain.holding(), self._state.load.counted(), span or nullcontext():
            try:
                async with aclosing(turn.chunks()) as pieces:
                    async for events in pieces:
                        self._tell(events)
            except asyncio.CancelledError:  # by ``cancel``, or with the event loop: either way it has ended
                self._tell(form.cancelled())
            except HeadwayError as error:
                self._tell(form.failed(error))
            except Exception:  # the process edge: nobody else would hear of it
                message = failure_body(self._request_id, " in the background")["error"]["message"]
                self._tell(form.failed(GenerationFailed(message)))
            finally:
                await turn.aclose()

    def _tell(self, events: Sequence[bytes]) -> None:
        """Tells the readers, and keeps the response if these events are its last."""
        if self.events is not None:
            self.events.add(events)
        if not self._response:
            return
        if self.events is not None:
            self.events.end()
        stored = StoredResponse(self.id, self.owner, self._history, self.input, self._response, is_background=True, events=self.events)
        self._state.responses.keep(stored)


class BackgroundAnswer:
    """See Answer: what the client hears of a response in the background, which lives on when it leaves."""

    def __init__(self, response: BackgroundResponse) -> None:
        self._response = response

    @property
    def is_stream(self) -> bool:
        return self._response.events is not None

    async def whole(self) -> bytes:
        return self._response.snapshot()

    def chunks(self) -> AsyncGenerator[list[bytes], None]:
        assert self._response.events is not None, "it is a stream"
        return self._response.events.follow(0)

    async def aclose(self) -> None:
        pass
