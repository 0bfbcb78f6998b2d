"""The bodies of all open requests together: large ones are refused beyond the limit, small ones never, and who ends makes room."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from api_server import ApiServer
from certificates import connected

from headway.server.api import middleware

LARGE = 40_000
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % LARGE
CHUNKED = b"transfer-encoding: chunked\r\n\r\n%x\r\n" % LARGE


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(middleware, "MOST_BODY_BYTES", 100_000)
    with ApiServer(overload={"max_request_body_bytes": 50_000}) as server:
        yield server


def held(server: ApiServer, stack: ExitStack, head: bytes) -> socket.socket:
    """A client that keeps the last bytes of its body back."""
    raw = stack.enter_context(connected(server.port))
    raw.sendall(HEAD + head + b" " * (LARGE - 10))
    return raw


@pytest.mark.parametrize("head", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_large_bodies_share_a_limit(server: ApiServer, head: bytes) -> None:
    with ExitStack() as stack:
        waiting = [held(server, stack, head) for _ in range(3)]
        (refused,) = _answered(waiting)
        answer = refused.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in answer
        message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
        assert message == "The bodies of open requests have 100000 bytes, as many as this server holds; try again soon."
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
    server.wait_for(lambda: not server.connections or len(server.connections) == 1)
    for _ in range(3):
        assert server.post("/v1/completions", {"prompt": "x", "user": "u" * LARGE}).status_code == 200


def _answered(waiting: list[socket.socket]) -> list[socket.socket]:
    """The one that is answered before its body is there; its order among the others is the server's."""
    return select.select(waiting, [], [], 10)[0]
