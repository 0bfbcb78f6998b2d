"""The way out: both signals, the second one, with streams open, with none, and while the server loads."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from live_server import LiveServer

pytestmark = pytest.mark.e2e
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@contextmanager
def open_stream(server: LiveServer, max_tokens: int) -> Iterator[Iterator[str]]:
    """The lines of a stream whose first token is here."""
    body = {
        "prompt": "Tell me everything:",
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


@pytest.mark.parametrize("number", SIGNALS)
def test_open_streams_finish_and_the_rest_goes_elsewhere(number: signal.Signals) -> None:
    with LiveServer("demo") as server, httpx.Client(base_url=server.url, timeout=60) as kept:
        server.wait_ready()
        assert kept.get("/health").status_code == 200
        with open_stream(server, 300) as lines:
            server.process.send_signal(number)
            server.wait_for(lambda: httpx.get(f"{server.url}/ping").status_code == 503, 60)
            assert kept.get("/health").json()["status"] == "draining"
            refused = httpx.post(f"{server.url}/v1/completions", json={"prompt": "x"})
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"]
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data:"))["usage"]["completion_tokens"] == 300
        assert server.process.wait(timeout=60) == 0
        assert f"{number.name}: refusing new work, 1 requests open" in server.log()


@pytest.mark.alone
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_wait(number: signal.Signals) -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        with open_stream(server, 3000) as lines:
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: "refusing new work" in server.log())
            since = time.monotonic()
            server.process.send_signal(number)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert "shutting down and has aborted this request" in rest[-2]
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - since < 8


@pytest.mark.alone
def test_with_no_time_open_streams_are_aborted() -> None:
    with LiveServer("demo", "--shutdown-timeout", "0") as server:
        server.wait_ready()
        with open_stream(server, 3000) as lines:
            since = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert "shutting down and has aborted this request" in rest[-2]
        assert server.process.wait(timeout=60) == 0
        assert time.monotonic() - since < 8
        assert "1 requests were still open and are aborted" in server.log()


@pytest.mark.alone
def test_with_nothing_open_it_ends_at_once() -> None:
    with LiveServer("demo") as server:
        server.wait_ready()
        with httpx.Client(base_url=server.url) as idle:
            idle.get("/health")  # a connection that is kept open is nothing to wait for
            since = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - since < 5


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_loading_ends_it_at_once(number: signal.Signals) -> None:
    with LiveServer("demo") as server:
        server.wait_for(lambda: "phase" in httpx.get(f"{server.url}/ping").text)
        server.process.send_signal(number)
        assert server.process.wait(timeout=60) == 0
