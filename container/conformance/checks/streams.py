"""Answers that come in pieces."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.events import DONE, events_of, is_end, pieces_of, text_of
from headway.container.conformance.exchange import Exchange, describe
from headway.container.conformance.exposition import running_requests
from headway.container.conformance.outcome import Failed, NotApplicable, Skipped, require
from headway.container.conformance.probe import Probe

_STREAMS = "realtime-endpoints-test-endpoints"
_CODE = "your-algorithms-inference-code"
_NUM_TOKENS = 16
_NUM_LEAVING = 8
_LEFT_TOKENS = 512
_PATIENCE_S = 10.0
_NUM_PINGS = 8
_BETWEEN_PINGS_S = 0.1
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@check(
    "streams.sse",
    '`"stream": true` is answered with server-sent events, chunked',
    Clause(_STREAMS, "The response stream API reads a chunked reply; the container learns from the body alone that a stream is wanted."),
)
def sse(probe: Probe) -> None:
    answer = _streamed(probe)
    kind = answer.headers.get("content-type", "")
    require(kind.startswith("text/event-stream"), f"Content-Type is {kind or 'missing'}")
    require(answer.headers.get("transfer-encoding") == "chunked", "the stream is not chunked")
    require(len(events_of(answer.content)) > 1, "the stream has no more than one event")


@check(
    "streams.only-when-asked",
    "There is no stream unless the body asks for one",
    Clause(_STREAMS, "Both invocation APIs post to the same route, so streaming is decided by the body."),
)
def only_when_asked(probe: Probe) -> None:
    answer = probe.invoke({**probe.generating_shape().body, "stream": False}, {"accept": "*/*"})
    require(answer.status == 200, f'with "stream": false the answer is {answer.status}')
    require("event-stream" not in answer.headers.get("content-type", ""), "a stream came although none was asked for")
    answer.json()


@check(
    "streams.end",
    "A stream ends deliberately: a finish reason, [DONE], the last chunk",
    Clause(_STREAMS, "A stream that breaks off reaches the caller as ModelStreamError."),
)
def end(probe: Probe) -> None:
    answer = _streamed(probe)
    require(answer.is_whole, "the connection broke off before the last chunk")
    events = events_of(answer.content)
    require(events and events[-1] == DONE, f"the last event is not {DONE}")
    require(any(map(is_end, pieces_of(events))), "no event says why the answer ended")


@check(
    "streams.characters",
    "No character is split between two events",
    Clause(_STREAMS, "Parts of a stream may end anywhere, so each event must be whole text by itself."),
)
def characters(probe: Probe) -> None:
    shape = probe.generating_shape()
    asked = {**shape.longer(_NUM_TOKENS), "temperature": 0, "seed": 1}
    whole = text_of(probe.invoke(asked).json())
    pieces = [text_of(piece) for piece in pieces_of(events_of(probe.invoke({**asked, "stream": True}).content))]
    require(any(pieces), "the stream has no text")
    is_torn = any(0xD800 <= ord(letter) < 0xE000 for piece in pieces for letter in piece)
    require(not is_torn, "an event holds half of a surrogate pair")
    if _REPLACEMENT not in whole:
        require(not any(_REPLACEMENT in piece for piece in pieces), "the stream has replacement characters, the whole answer has none")


@check(
    "streams.disconnect",
    "Clients that leave in the middle of a stream harm nobody",
    Clause(_CODE, "The container goes on to answer /ping and /invocations."),
)
def disconnect(probe: Probe) -> None:
    _leave(probe)
    for _ in range(_NUM_PINGS):  # a server may notice late that they left
        require(probe.ask("GET", "/ping").status == 200, "/ping is not 200 after clients left")
        time.sleep(_BETWEEN_PINGS_S)
    require(probe.invoke().status == 200, "/invocations is not 200 after clients left")


@check(
    "streams.disconnect-frees",
    "The work of clients that left ends",
    Clause(_CODE, "An instance whose callers timed out must not go on computing for them."),
    Severity.SHOULD,
)
def disconnect_frees(probe: Probe) -> None:
    if _running(probe) is None:
        raise NotApplicable("/metrics has no gauge of running requests that we know")
    _leave(probe)
    probe.poll(lambda: _running(probe) == 0, _PATIENCE_S, f"requests still run {_PATIENCE_S:g} s after their clients left")


def _streamed(probe: Probe) -> Exchange:
    answer = probe.invoke(probe.generating_shape().streamed(_NUM_TOKENS))
    require(answer.status == 200, f'with "stream": true the answer is {answer.status}')
    return answer


def _leave(probe: Probe) -> None:
    """Opens streams of long answers, reads the first bytes of each, and closes the connections."""
    body = probe.generating_shape().streamed(_LEFT_TOKENS)

    def open_and_leave() -> int:
        try:
            with probe.subject.open_stream(body) as response:
                next(response.iter_raw(), b"")
                return int(response.status_code)
        except httpx2.HTTPError as error:
            raise Failed(f"a stream is not answered: {describe(error)}") from error

    with ThreadPoolExecutor(_NUM_LEAVING) as pool:
        statuses = [future.result() for future in [pool.submit(open_and_leave) for _ in range(_NUM_LEAVING)]]
    probe.note(f"{_NUM_LEAVING} clients opened a stream ({statuses}) and left after its first bytes")
    if 200 not in statuses:
        raise Skipped(f"no stream of {_LEFT_TOKENS} tokens could be opened: {statuses}")


def _running(probe: Probe) -> float | None:
    answer = probe.subject.ask("GET", "/metrics", b"", {})
    return running_requests(answer.text) if answer.status == 200 else None
