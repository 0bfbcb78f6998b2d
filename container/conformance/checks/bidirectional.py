"""The bidirectional stream: a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from headway.container.conformance.check import Clause, check
from headway.container.conformance.outcome import Failed, NotApplicable, require
from headway.container.conformance.probe import Probe

_PAGE = "realtime-endpoints-test-endpoints"
_PATH = "/invocations-bidirectional-stream"
_PATIENCE_S = 3.0


@check(
    "bidirectional.answers",
    "The WebSocket /invocations-bidirectional-stream, if there, answers a message",
    Clause(_PAGE, "The platform opens a WebSocket there; a payload part is a frame."),
)
def answers(probe: Probe) -> None:
    with _connected(probe) as connection:
        connection.send(json.dumps(probe.shape.body))
        answer = connection.recv(timeout=probe.subject.wishes.timeout_s)
        probe.note(f"message -> {len(answer)} {'characters' if isinstance(answer, str) else 'bytes'}: {answer[:120]!r}")
        require(answer, "the first frame of the answer is empty")


@check(
    "bidirectional.pong",
    "The WebSocket answers the platform's pings",
    Clause(_PAGE, "The platform pings every 60 seconds and closes the connection after five pings without an answer."),
)
def pong(probe: Probe) -> None:
    with _connected(probe) as connection:
        is_answered = connection.ping().wait(_PATIENCE_S)
        require(is_answered, f"a ping is not answered within {_PATIENCE_S:g} s")


@check(
    "bidirectional.key",
    "Where a key is set, the WebSocket needs it",
    Clause(_PAGE, "A key that guards a container must guard every way to the model."),
)
def key(probe: Probe) -> None:
    if not probe.subject.secrets:
        raise NotApplicable("no API key was given")
    with _connected(probe):
        pass
    try:
        with connect(f"{probe.subject.websocket_url}{_PATH}", ssl=probe.subject.tls, proxy=None):
            raise Failed("the handshake without a key is accepted")
    except InvalidStatus as error:
        probe.note(f"handshake without a key -> {error.response.status_code}")
        require(error.response.status_code in (401, 403), f"the handshake without a key is answered {error.response.status_code}")
    except (WebSocketException, TimeoutError, OSError) as error:
        raise Failed(f"the handshake without a key is not answered: {type(error).__name__}: {error}") from error


@contextmanager
def _connected(probe: Probe) -> Iterator[ClientConnection]:
    """Raises NotApplicable where there is no such route; what goes wrong inside of the block is Failed."""
    subject = probe.subject
    try:
        headers = subject.key_headers
        with connect(f"{subject.websocket_url}{_PATH}", additional_headers=headers, ssl=subject.tls, proxy=None) as connection:
            probe.note(f"WebSocket {_PATH} -> 101")
            yield connection
    except InvalidStatus as error:
        if error.response.status_code in (404, 405, 403, 400):
            raise NotApplicable(f"there is no such route: the handshake is answered {error.response.status_code}") from error
        raise Failed(f"the handshake is answered {error.response.status_code}") from error
    except InvalidHandshake as error:
        raise NotApplicable(f"there is no such route: {error}") from error
    except (WebSocketException, TimeoutError, OSError) as error:
        raise Failed(f"the WebSocket breaks: {type(error).__name__}: {error}") from error
