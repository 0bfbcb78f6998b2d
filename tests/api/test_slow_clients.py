"""Clients that keep the server waiting: they are cut off, and those for whom it works are not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from api_server import ApiServer
from websockets.frames import Frame, Opcode

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
BODY = b'{"prompt": "x"}'
CHUNKED = b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
UPGRADE = (
    b"GET /invocations-bidirectional-stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """One with little patience; a parameter is that for readers."""
    limits = {"client_header_timeout_s": 0.5, "client_body_timeout_s": 0.5, "client_read_timeout_s": getattr(request, "param", 0.5)}
    with ApiServer(connections=limits) as server:
        yield server


@contextmanager
def connected(server: ApiServer) -> Iterator[socket.socket]:
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.settimeout(60)
        raw.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        yield raw


def is_cut(raw: socket.socket) -> bool:
    """Waits for the other side's end, which must come without an answer."""
    try:
        return raw.recv(1) == b""
    except ConnectionResetError:
        return True


def wait_past_the_limits(server: ApiServer) -> None:
    """As long as it takes until a connection like those in question has been cut."""
    with connected(server) as idle, connected(server) as half:
        half.sendall(HEAD)
        assert is_cut(idle)
        assert is_cut(half)


@pytest.mark.parametrize("begun", [b"", b"GET", HEAD, HEAD + b"content-length: 9\r\n\r\n{", HEAD + CHUNKED])
def test_a_request_that_does_not_go_on(server: ApiServer, begun: bytes) -> None:
    with connected(server) as raw:
        raw.sendall(begun)
        assert is_cut(raw)
    assert server.client.get("/version").status_code == 200


def test_a_head_that_trickles(server: ApiServer) -> None:
    with connected(server) as raw:
        raw.settimeout(0.05)
        raw.sendall(HEAD)
        for _ in range(200):
            try:
                raw.sendall(b"a")
                assert is_cut(raw)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("it was never cut")


def test_an_answer_that_takes_long_is_waited_for(server: ApiServer) -> None:
    server.engine.gate.clear()
    with connected(server) as raw, connected(server) as pipelining:
        raw.sendall(WHOLE)
        pipelining.sendall(WHOLE + b"GET /version")
        server.wait_for(lambda: server.engine.num_open_requests == 2)
        wait_past_the_limits(server)
        server.on_loop(server.engine.gate.set)
        assert raw.recv(12) == pipelining.recv(12) == b"HTTP/1.1 200"


def test_a_websocket_may_be_idle(server: ApiServer) -> None:
    with connected(server) as raw:
        raw.sendall(UPGRADE)
        assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
        wait_past_the_limits(server)
        raw.sendall(Frame(Opcode.TEXT, BODY).serialize(mask=True))
        assert b"text_completion" in raw.recv(65536)


def test_answers_that_nobody_reads(server: ApiServer) -> None:
    with connected(server) as raw:
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 1000)
        server.wait_for(lambda: not server.connections)


@pytest.mark.parametrize("server", [60.0], indirect=True)
def test_pings_whose_pongs_nobody_reads(server: ApiServer) -> None:
    with connected(server) as raw:
        raw.sendall(UPGRADE)
        assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
        flood = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 8000
        for _ in range(20):  # 20 MB
            raw.sendall(flood)
        raw.sendall(Frame(Opcode.PING, b"the last").serialize(mask=True))
        (protocol,) = server.connections
        assert protocol.transport.get_write_buffer_size() < 2**20
        received = b""
        while not received.endswith(b"\x8a\x08the last"):
            received = received[-20:] + raw.recv(65536)
        raw.sendall(Frame(Opcode.TEXT, json.dumps({"prompt": "x"}).encode()).serialize(mask=True))
        assert b"text_completion" in raw.recv(65536)


def test_a_websocket_that_nobody_reads(server: ApiServer) -> None:
    with connected(server) as raw:
        raw.sendall(UPGRADE)
        assert raw.recv(65536).startswith(b"HTTP/1.1 101 ")
        flood = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 8000
        with suppress(OSError):  # of the cut
            for _ in range(10_000):
                raw.sendall(flood)
        server.wait_for(lambda: not server.connections)


def test_a_connection_between_two_requests_is_closed_in_time() -> None:
    with ApiServer(connections={"http_keep_alive_s": 1}) as server, connected(server) as raw:
        raw.sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while piece := raw.recv(65536):
            received += piece
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" not in received
