"""More connections than may be open: health checks are answered, the rest is refused, and those before are left in peace."""

from __future__ import annotations

import json
import logging
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from api_server import ApiServer
from certificates import connected

from headway.server.api import connection_limit
from headway.server.api.connection_limit import Allowance, ConnectionLimit
from headway.server.config.connections import ConnectionsConfig

MOST, SPARE = 3, 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(connection_limit, "NUM_SPARE", SPARE)
    with ApiServer(connections={"max_connections": MOST}) as server:
        yield server


@pytest.fixture
def full(server: ApiServer) -> Iterator[list[socket.socket]]:
    """As many idle connections as there may be."""
    with ExitStack() as stack:
        yield [joined(server, stack) for _ in range(MOST)]


def joined(server: ApiServer, stack: ExitStack) -> socket.socket:
    num_before = len(server.connections)
    raw = stack.enter_context(connected(server.port))
    server.wait_for(lambda: len(server.connections) == num_before + 1)
    return raw


def exchange(raw: socket.socket, path: str) -> tuple[bytes, bytes]:
    """(head, body), read until the server closes the connection."""
    raw.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    head, _, body = b"".join(iter(lambda: raw.recv(65536), b"")).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("path", ["/ping", "/health", "/ping?x=1"])
def test_health_checks_are_answered(path: str, server: ApiServer, full: list[socket.socket]) -> None:
    with connected(server.port) as raw:
        head, _ = exchange(raw, path)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head


@pytest.mark.parametrize("path", ["/version", "/v1/models", "/pingx", "/v1/ping"])
def test_other_requests_are_refused(path: str, server: ApiServer, full: list[socket.socket]) -> None:
    with connected(server.port) as raw:
        head, body = exchange(raw, path)
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    error = json.loads(body)["error"]
    assert error["message"] == "This server has its 3 connections open and takes no further one now; try again soon."
    full[0].sendall(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n")
    assert full[0].recv(12) == b"HTTP/1.1 200"


def test_a_websocket_counts_and_is_refused_too(server: ApiServer, full: list[socket.socket]) -> None:
    with connected(server.port) as raw:
        raw.sendall(b"GET /invocations-bidirectional-stream HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 503"


def test_beyond_the_spare_ones_a_connection_is_cut(server: ApiServer, full: list[socket.socket]) -> None:
    with ExitStack() as stack:
        spare = [joined(server, stack) for _ in range(SPARE)]
        with connected(server.port) as raw, suppress(ConnectionResetError):
            assert raw.recv(1) == b""
        assert exchange(spare[0], "/ping")[0].startswith(b"HTTP/1.1 200 ")


def test_who_leaves_makes_room(server: ApiServer, full: list[socket.socket]) -> None:
    full[0].close()
    server.wait_for(lambda: len(server.connections) == MOST - 1)
    assert server.client.get("/version").status_code == 200


def test_the_log_tells_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    limit = ConnectionLimit(ConnectionsConfig(max_connections=10))
    assert [limit.admit(n) for n in (1, 10, 11, 138, 139)] == [Allowance.ALL] * 2 + [Allowance.HEALTH] * 2 + [Allowance.NOTHING]
    assert [record.message for record in caplog.records] == [
        "10 connections are open, as many as there may be (--max-connections): new ones are refused"
    ]


def test_the_default_leaves_files_for_the_rest_of_the_process() -> None:
    limit = ConnectionLimit(ConnectionsConfig()).max_connections
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert files * 0.8 < limit < files
