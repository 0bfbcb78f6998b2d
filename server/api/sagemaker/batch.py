"""JSON lines on /invocations, as batch transform sends them: each line a request, its answer the same line of the answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from headway.server.api.auth import owner_of
from headway.server.api.deadline import deadline_of
from headway.server.api.deps import AppState, client_request_id_of, record_of, request_id_of, state_of
from headway.server.api.disconnect import while_connected
from headway.server.api.errors import error_json, failure_json
from headway.server.api.media import JSON_LINES, chosen, decoded, kind_of
from headway.server.api.off_loop import in_parser
from headway.server.api.protocol.parse import parse_object
from headway.server.api.routes.body import read_body
from headway.server.api.sagemaker.attributes import asked_adapter, asked_route, echoed
from headway.server.api.sagemaker.understand import Invocation, understand
from headway.server.api.serving.answer import Answer
from headway.server.api.serving.call import Call
from headway.server.api.traces import line_span, span_of
from headway.server.errors import EngineDead, EngineNotReady, HeadwayError, QueueFull, RequestError, ServerDraining

if TYPE_CHECKING:
    from headway.server.api.request_span import RequestSpan

# Every answer is held until the last is there. At 100 bytes a line and 1 KB an answer: 1 MB in, 10 MB out.
MAX_LINES = 10_000
# Log-probabilities make answers large; no client of the platform takes more.
MAX_ANSWER_BYTES = 100 * 2**20
# A full queue is asked again for this long before a line is given up, and this often.
MAX_QUEUE_WAIT_S = 60.0
QUEUE_PAUSE_S = 0.5


async def answer_lines(http: Request) -> Response:
    """All answers together, with a Content-Length. A line that fails is answered ``{"error": ..}``, and the others go on.

    What is no line's fault (the engine died, the server drains) fails the request, so that the platform sends it again.
    """
    content_type = http.headers.get("content-type")
    kind = kind_of(content_type)
    media_type = chosen(http.headers.get("accept"), [kind, *(other for other in JSON_LINES if other != kind)])
    body = await read_body(http)
    lines = _lines(decoded(body, content_type))
    state = state_of(http)
    batch = _Batch(state, http, width=state.ready_model().info.max_num_seqs)
    answers = await while_connected(http.receive, batch.run(lines))
    return Response(b"".join(answer + b"\n" for answer in answers), headers=echoed(http.headers), media_type=media_type)


def _lines(body: bytes) -> list[bytes]:
    """Those that are not empty. Raises RequestError."""
    num_lines = body.count(b"\n") + 1
    if num_lines > MAX_LINES + 1:  # one more: the last line may be ended or not
        raise RequestError(f"The body has {num_lines} lines; send {MAX_LINES} at most (a smaller MaxPayloadInMB).")
    lines = [line for line in body.split(b"\n") if line.strip()]
    if not lines:
        raise RequestError("The body has no line with a request; send a JSON object on each.")
    return lines


class _Batch:
    """The lines of one request, ``width`` at a time: more would only wait in the engine."""

    def __init__(self, state: AppState, http: Request, width: int) -> None:
        self._state = state
        self._route = asked_route(http.headers)
        self._adapter = asked_adapter(http.headers)
        self._request_id = request_id_of(http)
        self._is_id_given = client_request_id_of(http) is not None
        self._record = record_of(http)
        self._owner = owner_of(http)
        self._deadline = deadline_of(http)
        self._span = span_of(http)
        self._width = width
        self._num_answer_bytes = 0

    async def run(self, lines: list[bytes]) -> list[bytes]:
        """In the lines' order. Raises EngineDead, EngineNotReady, ServerDraining."""
        answers = [b""] * len(lines)
        waiting = iter(enumerate(lines))

        async def work() -> None:
            for index, line in waiting:
                answers[index] = await self._answer(index, line)
                self._num_answer_bytes += len(answers[index])

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._width, len(lines))):
                    group.create_task(work())
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from problems
        return answers

    async def _answer(self, index: int, line: bytes) -> bytes:
        try:
            with line_span(self._span) as span:
                return await self._understood_and_answered(index, line, span)
        except (EngineDead, EngineNotReady, ServerDraining):
            raise
        except HeadwayError as error:
            return error_json(error)
        except Exception:  # the process edge of this line: the others have done nothing wrong
            return failure_json(self._request_id, f" in line {index}")

    async def _understood_and_answered(self, index: int, line: bytes, span: RequestSpan | None) -> bytes:
        """Raises HeadwayError."""
        call = Call(
            f"{self._request_id}-{index}",
            is_id_given=self._is_id_given,
            num_bytes=len(line),
            deadline=self._deadline.restarted().within(self._state.config.overload.request_timeout, "--request-timeout"),
            span=span,
            adapter=self._adapter,
            record=self._record,
            owner=self._owner,
        )
        async with self._state.batch_turn:
            await asyncio.sleep(0)
            if self._num_answer_bytes > MAX_ANSWER_BYTES:
                raise RequestError(f"The answers before this line have more than {MAX_ANSWER_BYTES} bytes; send fewer lines at a time.")
            invocation = await in_parser(len(line), lambda: understand(self._route, parse_object(line)))
        if invocation.is_stream:
            raise RequestError("stream is not for lines of a batch: leave it out; each answer is one line.", "stream")
        answer = await self._admitted(invocation, call)
        try:
            return await answer.whole()
        finally:
            await answer.aclose()

    async def _admitted(self, invocation: Invocation, call: Call) -> Answer:
        """Waits while the queue is full: the lines are here, and sending them again would not shorten it."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + MAX_QUEUE_WAIT_S
        async with call.deadline.guard():
            while True:
                # Asked first: what is not opened need not be tokenised again, nor is it counted as a refusal.
                if self._has_room() or loop.time() >= give_up_at:
                    try:
                        return await invocation.open(self._state, call)
                    except QueueFull:
                        if loop.time() >= give_up_at:
                            raise
                await asyncio.sleep(QUEUE_PAUSE_S)

    def _has_room(self) -> bool:
        try:
            self._state.engine.check_room()
        except QueueFull:
            return False
        return True
