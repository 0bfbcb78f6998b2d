"""Answers without end are ended."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import httpx2
import pytest

from headway.container.conformance import exchange as module
from headway.container.conformance.exchange import exchange
from headway.container.conformance.outcome import Failed


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """A server whose answer never ends, a byte a piece."""
    ended = threading.Event()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while not ended.wait(0.01):
                connection.sendall(b"1\r\nx\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(("limit", "value"), [("_MAX_ANSWER_S", 0.2), ("_MAX_CHUNKS", 10)])
def test_an_answer_that_drips(monkeypatch: pytest.MonkeyPatch, limit: str, value: float) -> None:
    monkeypatch.setattr(module, limit, value)
    with dripping() as url, httpx2.Client(base_url=url, trust_env=False, timeout=5) as client, pytest.raises(Failed, match="without end"):
        exchange(client, "GET", "/", b"", {})
