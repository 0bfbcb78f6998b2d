"""The health check: what the platform asks every few seconds, and replaces an instance for."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from time import monotonic

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.outcome import Skipped, require
from headway.container.conformance.probe import JSON, Probe

_PAGE = "your-algorithms-inference-code"
_PING_LIMIT_S = 2.0
_CONNECT_LIMIT_S = 0.25
_CONNECT_PATIENCE_S = 2.0
_NUM_INVOCATIONS = 8
_NUM_PINGS = 5
_NUM_CONNECTIONS = 16
_LONG_ANSWER_TOKENS = 128


@check("ping.get", "GET /ping is answered 200", Clause(_PAGE, "200 with an empty body says that the container is ready."))
def get(probe: Probe) -> None:
    _require_200(probe, "GET")


@check("ping.post", "POST /ping is answered 200", Clause(_PAGE, "The web server must accept POST requests to /invocations and /ping."))
def post(probe: Probe) -> None:
    _require_200(probe, "POST")


@check("ping.head", "HEAD /ping is answered 200", Clause(_PAGE, "Load balancers and probes ask in this way, too."), Severity.SHOULD)
def head(probe: Probe) -> None:
    _require_200(probe, "HEAD")


@check("ping.time", "/ping is answered within 2 s", Clause(_PAGE, "An attempt has 2 seconds."))
def time(probe: Probe) -> None:
    def measure() -> list[float]:
        seconds = [_ping_s(probe)]
        while len(seconds) < _NUM_PINGS and seconds[-1] < _PING_LIMIT_S:
            seconds.append(_ping_s(probe))
        return seconds

    probe.within(_PING_LIMIT_S, "/ping", measure)


@check("ping.load", "/ping is answered within 2 s while 8 invocations run", Clause(_PAGE, "An attempt has 2 seconds, whatever else runs."))
def load(probe: Probe) -> None:
    content = json.dumps(probe.shape.longer(_LONG_ANSWER_TOKENS)).encode()

    def measure() -> list[float]:
        with ThreadPoolExecutor(_NUM_INVOCATIONS) as pool:
            calls = [pool.submit(probe.subject.ask, "POST", "/invocations", content, JSON) for _ in range(_NUM_INVOCATIONS)]
            seconds = [_ping_s(probe)]
            while not all(call.done() for call in calls):
                seconds.append(_ping_s(probe))
            statuses = [call.result().status for call in calls]
        probe.note(f"{_NUM_INVOCATIONS} invocations at a time: {statuses}")
        if 200 not in statuses and max(seconds) < _PING_LIMIT_S:
            raise Skipped(f"no invocation of {_LONG_ANSWER_TOKENS} tokens was answered, so there was no load: {statuses}")
        return seconds

    probe.within(_PING_LIMIT_S, "/ping beside 8 invocations", measure)


@check(
    "ping.connect", "A connection is accepted within 250 ms", Clause(_PAGE, "The container must accept socket connections within 250 ms.")
)
def connect(probe: Probe) -> None:
    def measure() -> list[float]:
        with ExitStack() as stack, ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
            return [future.result() for future in [pool.submit(_connect_s, probe, stack) for _ in range(_NUM_CONNECTIONS)]]

    probe.within(_CONNECT_LIMIT_S, f"Accepting {_NUM_CONNECTIONS} connections at once", measure)


@check("ping.no-key", "/ping needs no API key", Clause(_PAGE, "The platform's health check carries no Authorization header."))
def no_key(probe: Probe) -> None:
    _require_200(probe, "GET", with_key=False)


def _require_200(probe: Probe, method: str, *, with_key: bool = True) -> None:
    status = probe.ask(method, "/ping", with_key=with_key).status
    require(status == 200, f"{method} /ping is answered {status}")


def _ping_s(probe: Probe) -> float:
    """Not evidence: there may be hundreds."""
    started = monotonic()
    status = probe.subject.ask("GET", "/ping", b"", {}).status
    require(status == 200, f"GET /ping is answered {status}")
    return monotonic() - started


def _connect_s(probe: Probe, stack: ExitStack) -> float:
    """The connection stays open until the stack is left, so that all are open at once."""
    started = monotonic()
    with suppress(TimeoutError):
        stack.enter_context(socket.create_connection(probe.subject.address, timeout=_CONNECT_PATIENCE_S))
    return monotonic() - started
