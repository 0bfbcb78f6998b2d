"""Clients that reset their connection, with requests still in the pipeline: nothing in the log may take that for a bug of ours."""

from __future__ import annotations

import logging
import socket
import struct

import pytest
from api_server import ApiServer

BODY = b'{"prompt": "x", "stream": true}'
REQUEST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
RESET = struct.pack("ii", 1, 0)  # what SO_LINGER takes: on, no time


def test_a_reset_connection_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ApiServer() as server:
        for _ in range(5):
            server.engine.gate.clear()
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                raw.sendall(REQUEST * 3)
                assert raw.recv(12) == b"HTTP/1.1 200"
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            server.on_loop(server.engine.gate.set)
            server.wait_for(lambda: not server.connections)
        assert server.client.get("/ping").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
