"""One request's span, in the words of OpenTelemetry's conventions for generative AI, and vLLM's for latencies. No text of a user's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextvars import Token
from types import TracebackType

from opentelemetry.trace import Span, StatusCode, Tracer, format_span_id, format_trace_id, set_span_in_context

from headway.server.api.protocol.base import GenerationFields
from headway.server.api.serving.choices import Choice
from headway.server.log import trace_ids
from headway.server.types import FinishReason, RequestTimes

_SAMPLING = ("temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")


class RequestSpan:
    """Use as a context manager: the span ends with it, and while it lasts each log record in JSON carries the trace's ids."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._error: str | None = None
        self._token: Token[dict[str, str] | None] | None = None

    def __enter__(self) -> RequestSpan:
        context = self._span.get_span_context()
        self._token = trace_ids.set({"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)})
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._token is not None, "entered before"
        trace_ids.reset(self._token)
        if kind is not None:
            self._fail(kind.__name__)
        self._span.end()

    def child(self, name: str) -> RequestSpan:
        return RequestSpan(self._tracer, self._tracer.start_span(name, set_span_in_context(self._span)))

    def on_status(self, status: int) -> None:
        """A 4xx is the client's error, so not one of this span (OpenTelemetry's conventions for HTTP); its cause is told all the same."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._fail(str(status), is_ours=status >= 500)

    def describe(self, request: GenerationFields, model_name: str, response_id: str) -> None:
        """What is asked for, as soon as it is understood. ``model_name`` is the one that answers show."""
        self.describe_pooling(request.OPERATION, request.model or model_name, model_name, response_id)
        attributes = {
            "gen_ai.request.max_tokens": request.asked_max_tokens,
            "gen_ai.request.choice.count": request.n,
            "gen_ai.request.stream": request.stream,
            **{f"gen_ai.request.{name}": getattr(request, name) for name in _SAMPLING},
        }
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def describe_pooling(self, operation: str, asked_model: str, model_name: str, response_id: str) -> None:
        """The same where nothing is generated."""
        self._span.update_name(f"{operation} {asked_model}")
        self._span.set_attributes(
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "headway",
                "gen_ai.system": "headway",  # the name before; many viewers know only that
                "gen_ai.request.model": asked_model,
                "gen_ai.response.id": response_id,
                "gen_ai.response.model": model_name,
            }
        )

    def finish(self, choices: Sequence[Choice], num_input_tokens: int, num_cached_tokens: int) -> None:
        """What came of it. The phases, as spans of their own and as vLLM's latencies, are those of the first choice."""
        ends = [choice.end for choice in choices if choice.end is not None]
        self._span.set_attributes(
            {
                "gen_ai.response.finish_reasons": [end.value for end in ends],
                "gen_ai.usage.input_tokens": num_input_tokens,
                "gen_ai.usage.output_tokens": sum(len(choice.token_ids) for choice in choices),
                "gen_ai.usage.cache_read.input_tokens": num_cached_tokens,
            }
        )
        self._tell_end(ends, choices[0].times if choices else None)

    def finish_pooling(self, ends: Iterable[FinishReason], num_input_tokens: int, times: RequestTimes | None) -> None:
        """The same where nothing was generated; ``times`` are those of the first text."""
        self._span.set_attribute("gen_ai.usage.input_tokens", num_input_tokens)
        self._tell_end(ends, times)

    def _tell_end(self, ends: Iterable[FinishReason], times: RequestTimes | None) -> None:
        for end in ends:
            if not end.is_answer:
                self._fail(end.value, is_ours=end is not FinishReason.ABORT)
        if times is not None:
            self._tell_phases(times, time.time())

    def _tell_phases(self, times: RequestTimes, now: float) -> None:
        """What had not come to its end, ended ``now``."""
        ended = times.last_token or now
        prefilled = times.first_token or ended
        scheduled = times.scheduled or ended
        self._phase("queue", times.arrival, scheduled)
        latencies = {"time_in_queue": scheduled - times.arrival, "e2e": ended - times.arrival}
        if times.scheduled is not None:
            self._phase("prefill", scheduled, prefilled)
            latencies |= {"time_in_model_prefill": prefilled - scheduled, "time_in_model_inference": ended - scheduled}
        if times.first_token is not None:
            self._phase("decode", prefilled, ended)
            latencies |= {"time_to_first_token": prefilled - times.arrival, "time_in_model_decode": ended - prefilled}
        self._span.set_attributes({f"gen_ai.latency.{name}": seconds for name, seconds in latencies.items()})

    def _phase(self, name: str, begun: float, ended: float) -> None:
        span = self._tracer.start_span(name, set_span_in_context(self._span), start_time=_nanoseconds(begun))
        span.end(_nanoseconds(ended))

    def _fail(self, error: str, is_ours: bool = True) -> None:
        """The first cause stays: it is the most exact one."""
        if self._error is None:
            self._error = error
            self._span.set_attribute("error.type", error)
            if is_ours:
                self._span.set_status(StatusCode.ERROR)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
