"""A response from the pieces of its turn: the object as it is at any time, and the events that lead there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from headway.server.api.errors import error_body_of
from headway.server.api.json_text import encode
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Usage
from headway.server.api.serving.logprobs import LogprobFormat
from headway.server.api.serving.responses.ids import ResponseIds
from headway.server.api.serving.responses.output import Events, Output
from headway.server.api.serving.turn import Turn
from headway.server.errors import HeadwayError

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
# Why an answer ends before its own end, as incomplete_details say it; OpenAI's have no repetition_detection.
_CUT_OFF = {"length": "max_output_tokens", "repetition": "repetition"}
# An ended response is told by the event of its status; OpenAI has none for a cancelled one, whose stream must end all the same.
_LAST_EVENTS = {"cancelled": "response.incomplete"}


class ResponseForm:
    """See AnswerFormat. ``on_end`` is called with the response's JSON before anybody is told that it has ended, whatever ended it."""

    def __init__(
        self,
        turn: Turn,
        request: ResponsesRequest,
        ids: ResponseIds,
        on_end: Callable[[bytes], None],
        *,
        is_stored: bool,
    ) -> None:
        self._events = Events(are_wanted=request.stream)
        self._output = Output(ids, self._events, turn.call_writer().new_id)
        self._logprobs = LogprobFormat.of(turn.state.config.http, turn.request, turn.model.tokenizer)
        self._wants_logprobs = request.wants_logprobs
        self._waiting_logprobs: list[Any] = []
        self._on_end = on_end
        self._status: Status = "queued" if request.background else "in_progress"
        self._end: dict[str, Any] = {}  # members that are set by the end
        self._finish_reason: str | None = None
        self._ended = b""  # the response as JSON, once it has ended
        self._fixed = _echoed(turn, request, ids.response, is_stored)

    def opening(self) -> list[bytes]:
        """The events before the first token."""
        self._events.add("response.created", response=self.response())
        self._events.add(f"response.{self._status}", response=self.response())
        return self._events.take()

    def response(self) -> dict[str, Any]:
        """As it is now."""
        return {**self._fixed, "status": self._status, "output": self._output.items, **self._end}

    def encoded(self) -> bytes:
        """The same as JSON."""
        return self._ended or encode(self.response())

    def chunks(self, delta: ChoiceDelta, usage: Usage | None) -> list[bytes]:
        if self._status == "queued":
            self._status = "in_progress"
            self._events.add("response.in_progress", response=self.response())
        logprobs = self._due_logprobs(delta)
        if delta.reasoning:
            self._output.add_reasoning(delta.reasoning)
        if delta.text or logprobs:
            self._output.add_text(delta.text, logprobs)
        for piece in delta.tool_calls:
            self._output.add_call(piece)
        if delta.finish_reason is not None:
            self._finish(delta.finish_reason)
        return self._events.take()

    def usage_chunk(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes:
        """The last event."""
        self._end = {"usage": _usage(usage)}
        if metrics is not None:
            self._end["metrics"] = metrics
        if (reason := _CUT_OFF.get(self._finish_reason or "")) is not None:
            self._end["incomplete_details"] = {"reason": reason}
            self._tell_end("incomplete")
        else:
            self._end["completed_at"] = int(time.time())
            self._tell_end("completed")
        return b"".join(self._events.take())

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        raise AssertionError("a response is made of pieces, in their order")

    def failed(self, error: HeadwayError) -> list[bytes]:
        """What is to be told of a turn that has broken."""
        self._give_up()
        # Of OpenAI's codes this is the only one that says nothing wrong.
        self._end = {"error": {"code": "server_error", "message": error_body_of(error)["error"]["message"]}}
        self._tell_end("failed")
        return self._events.take()

    def cancelled(self) -> list[bytes]:
        self._give_up()
        self._tell_end("cancelled")
        return self._events.take()

    def _give_up(self) -> None:
        self._output.close("incomplete")

    def _finish(self, reason: str) -> None:
        self._finish_reason = reason
        if not self._output.items and reason not in _CUT_OFF:
            self._output.add_text("", None)  # clients look for a message, if only to find it empty
        self._output.close("incomplete" if reason in _CUT_OFF else "completed")

    def _tell_end(self, status: Literal["completed", "incomplete", "failed", "cancelled"]) -> None:
        self._status = status
        response = self.response()
        self._ended = encode(response)
        self._on_end(self._ended)
        self._events.add(_LAST_EVENTS.get(status, f"response.{status}"), response=response)

    def _due_logprobs(self, delta: ChoiceDelta) -> list[Any] | None:
        """Those of tokens whose text ``delta`` brings. A token's text may come later than the token; reasoning and calls have none."""
        if not self._wants_logprobs:
            return None
        if delta.logprobs:
            self._waiting_logprobs += self._logprobs.chat(delta.logprobs)["content"]
        if delta.text or (delta.finish_reason is not None and self._output.has_open_text and not delta.tool_calls):
            due, self._waiting_logprobs = self._waiting_logprobs, []
            return due
        if delta.reasoning or delta.tool_calls:
            self._waiting_logprobs = []
        return None


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        # What is written to the prefix cache is not counted, and costs nothing.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _echoed(turn: Turn, request: ResponsesRequest, response_id: str, is_stored: bool) -> dict[str, Any]:
    """The members that stay as they are from the beginning, and those that only an end sets, as null."""
    defaults = turn.model.defaults
    temperature, top_p = request.temperature, request.top_p
    text = request.text.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": response_id,
        "object": "response",
        "created_at": turn.created,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "model": turn.name,
        "background": request.background,
        "store": is_stored,
        "previous_response_id": request.previous_response_id,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "parallel_tool_calls": request.parallel_tool_calls,
        "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
        "tools": request.tools,
        "temperature": next(value for value in (temperature, defaults.temperature, 1.0) if value is not None),
        "top_p": next(value for value in (top_p, defaults.top_p, 1.0) if value is not None),
        "top_logprobs": request.top_logprobs,
        "text": {"format": {"type": "text"}, **text},
        "reasoning": {"effort": request.reasoning.effort, "summary": request.reasoning.summary},
        "truncation": request.truncation,
        "metadata": request.metadata or {},
        "service_tier": None,
        "user": request.user,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
    }
