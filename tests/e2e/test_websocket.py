"""The WebSocket of a real server that is told to stop."""

from __future__ import annotations

import json
import signal
import time

import pytest
from live_server import LiveServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = pytest.mark.e2e


@pytest.mark.alone
def test_sigterm_finishes_the_answer_under_way_and_idle_connections_delay_nothing() -> None:
    with LiveServer("--model", "demo", "--dtype", "float32", "--max-model-len", "2048") as server:
        server.wait_ready()
        url = server.url.replace("http", "ws", 1) + "/invocations-bidirectional-stream"
        with connect(url) as idle, connect(url) as busy:
            busy.send(json.dumps({"prompt": "Once", "max_tokens": 60, "ignore_eos": True, "stream": True}))
            frames = [json.loads(busy.recv(timeout=60))]
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed):
                idle.recv(timeout=60)
            while "choices" in frames[-1]:
                frames.append(json.loads(busy.recv(timeout=60)))
            ended = time.monotonic()
            with pytest.raises(ConnectionClosed):
                busy.recv(timeout=60)
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - ended < 10
        assert idle.close_code == busy.close_code == 1001
        assert frames[-2]["choices"][0]["finish_reason"] == "length"
        assert frames[-1] == {"object": "stream.end"}
        assert "Traceback" not in server.log()
