"""The application behind a Unix socket, whose clients have no address."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from api_server import ApiServer
from websockets.sync.client import unix_connect

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with tempfile.TemporaryDirectory() as folder, ApiServer(network={"uds": f"{folder}/h.sock"}) as server:
        yield server


def test_whole_answers_streams_and_the_access_log(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert "text_completion" in server.post(PATH, {"prompt": "x"}).text
    assert server.post(PATH, {"prompt": "x", "stream": True}).text.endswith("data: [DONE]\n\n")
    assert f'unix - "POST {PATH} HTTP/1.1" 200' in [record.message for record in caplog.records]


def test_curl(server: ApiServer) -> None:
    command = ["curl", "-sS", "--unix-socket", str(server.config.network.uds), "http://localhost/v1/models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert '"id":"tiny"' in done.stdout


def test_a_websocket(server: ApiServer) -> None:
    with unix_connect(str(server.config.network.uds), uri="ws://localhost/invocations-bidirectional-stream") as websocket:
        websocket.send('{"prompt": "x"}')
        assert "text_completion" in str(websocket.recv())
