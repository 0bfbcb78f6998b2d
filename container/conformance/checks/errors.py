"""Requests that can't be served: what their callers are told, and that nobody else notices."""

from __future__ import annotations

import re

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.exchange import Exchange
from headway.container.conformance.outcome import Skipped, require
from headway.container.conformance.probe import JSON, Probe
from headway.container.conformance.raw_post import post_large

_RUNTIME = "botocore sagemaker-runtime"
_CODE = "your-algorithms-inference-code"
_CLIENT_ERROR = Clause(_RUNTIME, "ModelError carries the container's status: 4xx is the caller's fault, 5xx counts against the endpoint.")
_HUGE_BYTES = 26 * 2**20  # above the 25 MB that a real-time invocation may have
_DEEP_LEVELS = 100_000
_TRACE = re.compile(r'Traceback \(most recent call last\)|File "[^"]+\.py", line \d+|\tat [\w.$]+\([\w.]+:\d+\)|panicked at ')


@check("errors.bad-json", "A body that is no JSON is a 4xx", _CLIENT_ERROR)
def bad_json(probe: Probe) -> None:
    _require_4xx(_post(probe, b'{"messages": [{"role": '), "a body that is no JSON")


@check("errors.empty-body", "An empty body is a 4xx", _CLIENT_ERROR)
def empty_body(probe: Probe) -> None:
    _require_4xx(_post(probe, b""), "an empty body")


@check("errors.wrong-types", "Fields of the wrong type, and JSON that is no object, are a 4xx", _CLIENT_ERROR)
def wrong_types(probe: Probe) -> None:
    for body in (probe.shape.with_wrong_types(), [1, 2], 7):
        _require_4xx(probe.invoke(body), f"a body of {type(body).__name__}")


@check("errors.deep-json", "JSON nested 100,000 deep is a 4xx and harms nobody", _CLIENT_ERROR)
def deep_json(probe: Probe) -> None:
    _require_4xx(_post(probe, b'{"messages": ' + b"[" * _DEEP_LEVELS + b"]" * _DEEP_LEVELS + b"}"), "deep JSON")


@check(
    "errors.huge-body",
    "A body above 25 MB is answered, best with 413",
    Clause("realtime-endpoints", "A real-time invocation has at most 25 MB."),
    Severity.SHOULD,
)
def huge_body(probe: Probe) -> None:
    status = post_large(probe.subject, "/invocations", _HUGE_BYTES)
    probe.note(f"POST /invocations with {_HUGE_BYTES} bytes -> {status}")
    require(400 <= status < 500, f"a body of {_HUGE_BYTES} bytes with text in the place of messages is answered {status}")


@check("errors.mapping", "An unknown route is 404, GET /invocations 405 or 404", _CLIENT_ERROR)
def mapping(probe: Probe) -> None:
    status = probe.ask("GET", "/there-is-no-such-route").status
    require(status == 404, f"an unknown route is answered {status}")
    status = probe.ask("GET", "/invocations").status
    require(status in (404, 405), f"GET /invocations is answered {status}")


@check(
    "errors.json",
    "Errors are JSON with a message",
    Clause(_RUNTIME, "The body of an error reaches the caller in OriginalMessage."),
    Severity.SHOULD,
)
def as_json(probe: Probe) -> None:
    for answer in _refusals(probe):
        fields = answer.json()
        require(isinstance(fields, dict) and _message(fields), f"the error of {answer.request} has no message")


@check(
    "errors.no-traceback",
    "Errors show no traceback",
    Clause(_RUNTIME, "The body of an error reaches the caller as it is, through the OpenAI routes too."),
)
def no_traceback(probe: Probe) -> None:
    for answer in _refusals(probe):
        trace = _TRACE.search(answer.text)
        require(trace is None, f"the error of {answer.request} shows the server's code: {trace and trace[0]}")


@check(
    "errors.survived", "After bad requests /ping and /invocations answer as before", Clause(_CODE, "Failing pings replace the instance.")
)
def survived(probe: Probe) -> None:
    _bad_requests(probe)
    require(probe.ask("GET", "/ping").status == 200, "/ping is not 200 after bad requests")
    require(probe.invoke().status == 200, "/invocations is not 200 after bad requests")


def _refusals(probe: Probe) -> list[Exchange]:
    """Of bad requests those that were refused: other checks tell which were not. Raises Skipped where none was."""
    refused = [answer for answer in _bad_requests(probe) if answer.status >= 400]
    if not refused:
        raise Skipped("no bad request is refused (see errors.bad-json), so there is no error to read")
    return refused


def _bad_requests(probe: Probe) -> list[Exchange]:
    return [_post(probe, b'{"messages": '), _post(probe, b""), probe.invoke(probe.shape.with_wrong_types()), probe.invoke([1, 2])]


def _post(probe: Probe, content: bytes) -> Exchange:
    return probe.ask("POST", "/invocations", content, JSON)


def _require_4xx(answer: Exchange, what: str) -> None:
    require(400 <= answer.status < 500, f"{what} is answered {answer.status}")


def _message(fields: dict[str, object]) -> object:
    """Of {"error": {"message": ..}}, {"message": ..}, {"detail": ..} or {"error": ".."}."""
    error = fields.get("error")
    return (error.get("message") if isinstance(error, dict) else error) or fields.get("message") or fields.get("detail")
